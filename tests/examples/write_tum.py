"""Writes recordings of TUM's layout (`tum_scenes`) from scene folders of the project, as tests need them."""

import json

import numpy as np
from scipy.spatial.transform import Rotation

from jrs.datasets.scene import SceneFolder
from jrs.io.png import write_png8, write_png16


def write_tum(scene_folders, folder):
    """Write these scenes into `folder`, with the lists train.txt and val.txt: the last one is for scoring."""
    names = []
    for path in scene_folders:
        scene, out = SceneFolder(path), folder / path.name
        for part in ('rgb', 'depth', 'labels'):
            (out / part).mkdir(parents=True)
        cameras, lines = scene.camera(scene.frames[0]), []
        np.savetxt(out / 'intrinsics.txt', [[k[0, 0], k[1, 1], k[0, 2], k[1, 2], *size] for k, size in (
            (cameras.color_intrinsics, cameras.color_size), (cameras.depth_intrinsics, cameras.depth_size))])
        for frame in scene.frames:
            stamp, pose = f'{100 + frame.index / 30:.6f}', np.linalg.inv(frame.cam_from_world)
            write_png8(out / f'rgb/{stamp}.png', scene.color(frame))
            write_png16(out / f'depth/{stamp}.png', np.rint(scene.depth_m(frame) * 5000).astype(np.uint16))
            write_png16(out / f'labels/{stamp}.png', np.maximum(scene.instance_ids(frame), 0).astype(np.uint16))
            numbers = (*pose[:3, 3], *Rotation.from_matrix(pose[:3, :3]).as_quat())
            lines.append(' '.join([stamp, *(f'{number:.9f}' for number in numbers)]))
        (out / 'poses.txt').write_text('\n'.join(lines) + '\n')
        (out / 'classes.json').write_text(json.dumps({str(one.id): one.label for one in scene.instances}))
        names.append(path.name)
    for split, listed in (('train', names[:-1]), ('val', names[-1:])):
        (folder / f'{split}.txt').write_text('\n'.join(listed) + '\n')
