"""RGB-D recordings of TUM's kind, read where they lie: `rgb/`, `depth/`, `labels/`, `poses.txt`, `intrinsics.txt`."""

import json
from functools import cached_property

import numpy as np
from scipy.spatial.transform import Rotation

from jrs.datasets.dataset import SceneDataset
from jrs.datasets.scene import Camera, Frame, Scene, SceneInstance
from jrs.errors import DataError
from jrs.io.photo import read_photo
from jrs.io.png import read_png16
from jrs.registry import DATASETS


class TumScene(Scene):
    """One recording; a line of `poses.txt` is: timestamp, translation, quaternion xyzw of world_from_cam."""

    @cached_property
    def frames(self):
        frames = []
        for number, line in enumerate((self.path / 'poses.txt').read_text().splitlines()):
            stamp, *pose = line.split()
            world_from_cam = np.eye(4)
            world_from_cam[:3, 3] = pose[:3]
            world_from_cam[:3, :3] = Rotation.from_quat(np.array(pose[3:], float)).as_matrix()
            frames.append(Frame(stamp, number, 0, np.linalg.inv(world_from_cam)))
        return frames

    @cached_property
    def instances(self):
        names = json.loads((self.path / 'classes.json').read_text())
        return [SceneInstance(int(number), label, {}) for number, label in names.items()]

    def camera(self, frame):
        rows = np.loadtxt(self.path / 'intrinsics.txt')                     # fx fy cx cy height width: of colour, of depth
        return Camera(*(part for fx, fy, cx, cy, height, width in rows for part in (
            (int(height), int(width)), np.array([[fx, 0, cx], [0, fy, cy], [0, 0, 1]]))))

    def color(self, frame):
        return read_photo(self.path / 'rgb' / f'{frame.name}.png')

    def depth_m(self, frame):
        return read_png16(self.path / 'depth' / f'{frame.name}.png').astype(np.float32) / 5000

    def instance_ids(self, frame):
        return read_png16(self.path / 'labels' / f'{frame.name}.png').astype(np.int32)


@DATASETS.register_module()
class TumScenes(SceneDataset):
    """Recordings of TUM's layout; a split is a list of their folders, `<split>.txt`."""

    def open_scenes(self):
        names = self.listed_names()
        if missing := [name for name in names if not (self.root / name / 'poses.txt').is_file()]:
            raise DataError(f'{self.root} lacks recordings of {self.split}.txt: {", ".join(missing)}.')
        return [TumScene(self.root / name) for name in names]
