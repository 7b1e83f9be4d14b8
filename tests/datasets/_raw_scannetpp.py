"""The boxes of `_raw_scan` as a raw ScanNet++ data set: fisheye and iPhone pictures with markers, mesh, annotation.

Lenses are written out here once more, in COLMAP's terms, so that the reader's are compared with something.
"""

import json
import zlib
from pathlib import Path

import cv2
import numpy as np
from scipy.spatial.transform import Rotation

from jrs.io.ply import write_ply
from jrs.io.png import encode_jpeg, write_png8, write_png16
from jrs.io.scannet import write_list
from jrs.io.submission import write_vertex_numbers
from tests.datasets._raw_scan import BOXES, box_mesh, trace_rays, world_from_cam

SCENES = ('0a1b2c3d4e', '5f6a7b8c9d')
SIZES = {'dslr': (120, 180), 'iphone': (108, 144)}                          # (H, W)
PARAMETERS = {'dslr': (80.0, 80.5, 91.2, 60.3, 0.06, -0.012, 0.003, -0.001),   # centres of pixels at half-integers
              'iphone': (110.0, 110.4, 72.9, 53.8, 0.08, -0.04, 0.003, -0.002)}
MODELS = {'dslr': 'OPENCV_FISHEYE', 'iphone': 'OPENCV'}
LIDAR_SIZE = (192, 256)
MARKERS = np.array([[-1.6, 1.99, 1.6], [-0.6, 1.99, 1.9], [0.5, 1.99, 1.2], [1.5, 1.99, 1.7], [0.2, 0.89, 0.4],
                    [-0.95, 0.59, 0.5], [1.0, -0.3, 0.01], [-1.0, -0.5, 0.01]])
CUSHION = 'chair cushion'                                                   # a second object on vertices of the chair
EXCLUDED = np.arange(40, 60)
LABEL_MAP = ('class,count,semantic_map_to,instance_map_to\nfloor,1,,\nwall,1,,\nchair,1,,\ntable,1,,\n'
             f'{CUSHION},1,,pillow\noffice chair,1,,\nstrange thing,1,None,None\n')


def write_raw(raw: Path, scenes=SCENES[:1], num_frames=4, lost=(2,), video=False, lidar='png') -> Path:
    """Write scenes with `num_frames` posed frames of each camera; iPhone frames have the numbers 0, 10, 20, …

    Args:
        lost: places of frames whose COLMAP pose is not a number.
        video: put the iPhone's frames into `rgb.mkv`, all numbers from 0 on.
        lidar: 'png' (small images), 'bin' (one deflate stream), or None.
    """
    for scene in scenes:
        folder = raw / 'data' / scene
        _write_scan(folder / 'scans')
        _write_dslr(folder / 'dslr', num_frames, lost)
        _write_iphone(folder / 'iphone', num_frames, lost, video, lidar)
    write_list(raw / 'splits/nvs_sem_train.txt', scenes[:-1] or scenes)
    write_list(raw / 'splits/nvs_sem_val.txt', scenes[-1:])
    (raw / 'metadata/semantic_benchmark').mkdir(parents=True, exist_ok=True)
    (raw / 'metadata/semantic_benchmark/map_benchmark.csv').write_text(LABEL_MAP)
    return raw


def project(device: str, points: np.ndarray) -> np.ndarray:
    """Return where a lens shows camera points (n, 3): pixels (n, 2), centres at integers."""
    fx, fy, cx, cy, a, b, c, d = PARAMETERS[device]
    x, y = points[:, 0] / points[:, 2], points[:, 1] / points[:, 2]
    radius = np.hypot(x, y)
    if device == 'dslr':
        theta = np.arctan(radius)
        scale = theta * (1 + a * theta**2 + b * theta**4 + c * theta**6 + d * theta**8) / np.maximum(radius, 1e-12)
        x, y = x * scale, y * scale
    else:
        radial = 1 + a * radius**2 + b * radius**4
        x, y = (x * radial + 2 * c * x * y + d * (radius**2 + 2 * x**2),
                y * radial + c * (radius**2 + 2 * y**2) + 2 * d * x * y)
    return np.stack([fx * x + cx, fy * y + cy], axis=1) - 0.5


def rays_of(device: str, size: tuple[int, int]) -> np.ndarray:
    """Return the ray (H, W, 3), z = 1, of each pixel of a picture of `size`, found by iterating on `project`."""
    height, width = SIZES[device]
    v, u = np.mgrid[:size[0], :size[1]].reshape(2, -1)
    pixels = np.stack([(u + 0.5) * width / size[1], (v + 0.5) * height / size[0]], axis=1) - 0.5    # of the full size
    rays = np.ones((len(u), 3))
    rays[:, :2] = 0
    for _ in range(60):
        rays[:, :2] += 0.7 * (pixels - project(device, rays)) / PARAMETERS[device][:2]
    return rays.reshape(*size, 3)


def _picture(device: str, pose: np.ndarray) -> np.ndarray:
    """Return (H, W, 3) uint8: dark boxes of one colour each, with a white blob at every visible marker."""
    size = SIZES[device]
    _, owner = trace_rays(pose, rays_of(device, size))
    picture = np.random.default_rng(7).integers(20, 80, (len(BOXES) + 1, 3))[owner].astype(float)
    v, u = np.mgrid[:size[0], :size[1]]
    for x, y in project(device, in_camera(MARKERS, np.linalg.inv(pose))):
        picture += 170 * np.exp(-((u - x)**2 + (v - y)**2) / (2 * 1.5**2))[..., None]
    return np.clip(np.rint(picture), 0, 255).astype(np.uint8)


def in_camera(points: np.ndarray, cam_from_world: np.ndarray) -> np.ndarray:
    """Return world points (n, 3) in the camera's frame."""
    return points @ cam_from_world[:3, :3].T + cam_from_world[:3, 3]


def _write_scan(folder: Path) -> None:
    vertices, faces, owner = box_mesh()
    values = {axis: vertices[:, column].astype(np.float32) for column, axis in enumerate('xyz')}
    values |= {name: np.full(len(vertices), 128, np.uint8) for name in ('red', 'green', 'blue')}
    write_ply(folder / 'mesh_aligned_0.05.ply', values, faces)
    write_vertex_numbers(folder / 'mesh_aligned_0.05_mask.txt', EXCLUDED)
    members = {label: np.flatnonzero(owner == number) for number, label in enumerate(BOXES)}
    chair = members['chair']
    members[CUSHION] = chair[vertices[chair, 2] > 0.5]
    groups = [{'id': number, 'objectId': number + 1, 'label': label, 'segments': listed.tolist()}
              for number, (label, listed) in enumerate(members.items())]
    (folder / 'segments_anno.json').write_text(json.dumps({'segGroups': groups}))
    (folder / 'segments.json').write_text(json.dumps({'segIndices': list(range(len(vertices)))}))


def _write_dslr(folder: Path, num_frames: int, lost: tuple) -> None:
    names = [f'DSC{1234 + 3 * number:05d}.JPG' for number in range(num_frames)]
    poses = [world_from_cam(number) for number in range(num_frames)]
    for name, pose in zip(names, poses, strict=True):
        path = folder / 'resized_images' / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(encode_jpeg(_picture('dslr', pose), 98))
    write_png8(folder / 'resized_anon_masks' / 'DSC01234.png', _mask('dslr'))
    _write_cameras(folder, 'dslr', names, poses, lost)


def _mask(device: str) -> np.ndarray:
    """Return the anonymisation mask (H, W) uint8 of the first picture: a dark rectangle in white."""
    mask = np.full(SIZES[device], 255, np.uint8)
    mask[50:60, 80:100] = 0
    return mask


def _write_iphone(folder: Path, num_frames: int, lost: tuple, video: bool, lidar: str | None) -> None:
    names = [f'frame_{10 * number:06d}.jpg' for number in range(num_frames)]
    poses = [world_from_cam(number) for number in range(num_frames)]
    pictures = [_picture('iphone', pose) for pose in poses]
    (folder / ('' if video else 'rgb')).mkdir(parents=True)
    if video:
        masks = [np.repeat(_mask('iphone')[..., None], 3, axis=2)] + [np.full_like(pictures[0], 255)] * (num_frames - 1)
        for name, images in (('rgb.mkv', pictures), ('rgb_mask.mkv', masks)):
            writer = cv2.VideoWriter(str(folder / name), cv2.VideoWriter_fourcc(*'MJPG'), 60, SIZES['iphone'][::-1])
            for number in range(10 * num_frames - 9):
                writer.write(images[number // 10][..., ::-1] if number % 10 == 0 else np.zeros_like(images[0]))
            writer.release()
    else:
        for name, picture in zip(names, pictures, strict=True):
            (folder / 'rgb' / name).write_bytes(encode_jpeg(picture, 98))
        write_png8(folder / 'rgb_masks' / 'frame_000000.png', _mask('iphone'))
    size = (27, 36) if lidar == 'png' else LIDAR_SIZE
    depths = [trace_rays(pose, rays_of('iphone', size))[0] for pose in poses] if lidar else []
    if lidar == 'png':
        for name, depth in zip(names, depths, strict=True):
            write_png16(folder / 'depth' / f'{Path(name).stem}.png', np.rint(depth * 1000).astype(np.uint16))
    elif lidar == 'bin':
        frames = [depths[number // 10] if number % 10 == 0 else np.zeros(size) for number in range(10 * num_frames - 9)]
        deflate = zlib.compressobj(1, wbits=-15)
        (folder / 'depth.bin').write_bytes(deflate.compress(np.stack(frames).astype('<f4').tobytes()) + deflate.flush())
    _write_cameras(folder, 'iphone', [f'video/{name}' for name in names], poses, lost)


def _write_cameras(folder: Path, device: str, names: list[str], poses: list[np.ndarray], lost: tuple) -> None:
    (folder / 'colmap').mkdir()
    height, width = SIZES[device]
    (folder / 'colmap/cameras.txt').write_text(
        '# Camera list with one line of data per camera:\n'
        f'1 {MODELS[device]} {width} {height} {" ".join(map(repr, PARAMETERS[device]))}\n')
    lines = ['# Image list with two lines of data per image:']
    for number, (name, pose) in enumerate(zip(names, poses, strict=True)):
        cam_from_world = np.linalg.inv(pose)
        x, y, z, w = Rotation.from_matrix(cam_from_world[:3, :3]).as_quat()
        values = [float('nan')] * 7 if number in lost else [w, x, y, z, *cam_from_world[:3, 3]]
        lines += [f'{number + 1} {" ".join(repr(float(value)) for value in values)} 1 {name}',
                  '10.5 20.5 7 30.0 40.0 -1' if number % 2 else '']
    (folder / 'colmap/images.txt').write_text('\n'.join(lines) + '\n')
    _write_transforms(folder, device, names, poses)


def _write_transforms(folder: Path, device: str, names: list[str], poses: list[np.ndarray]) -> None:
    distortion = {'dslr': ('k1', 'k2', 'k3', 'k4'), 'iphone': ('k1', 'k2', 'p1', 'p2')}[device]
    data = dict(zip(('fl_x', 'fl_y', 'cx', 'cy', *distortion), PARAMETERS[device], strict=True))
    data |= {'h': SIZES[device][0], 'w': SIZES[device][1], 'camera_model': MODELS[device], 'test_frames': []}
    data['frames'] = [{'file_path': Path(name).name, 'transform_matrix': _nerfstudio(pose).tolist(), 'is_bad': False}
                      for name, pose in zip(names, poses, strict=True)]
    (folder / 'nerfstudio').mkdir()
    (folder / 'nerfstudio/transforms.json').write_text(json.dumps(data))


def _nerfstudio(world_from_cam: np.ndarray) -> np.ndarray:
    """Turn the camera to OpenGL's axes (y and z back) and the world's axes to (y, x, -z)."""
    world = np.array([[0, 1, 0, 0], [1, 0, 0, 0], [0, 0, -1, 0], [0, 0, 0, 1.0]])
    return world @ world_from_cam @ np.diag([1.0, -1, -1, 1])
