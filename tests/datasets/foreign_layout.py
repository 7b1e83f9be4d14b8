"""A data set of a foreign RGB-D layout, read directly: numbered pictures, one text file of poses, one of objects, no mesh.

    ROOT/<scene>/rgb_0000.png    depth_0000.png (tenths of a millimetre)    labels_0000.png    camera.txt    poses.txt
    objects.csv (id,name)
"""

import csv

import numpy as np

from jrs.datasets.dataset import SceneDataset
from jrs.datasets.scene import Camera, Frame, Scene, SceneInstance
from jrs.errors import DataError
from jrs.io.images import read_photo
from jrs.io.png import read_png16
from jrs.registry import DATASETS


class NumberedScene(Scene):
    """One folder of such pictures."""

    @property
    def frames(self):
        """A line of poses.txt is the number of a picture and world_from_cam, row by row."""
        rows = np.loadtxt(self.path / 'poses.txt', ndmin=2)
        return [Frame(f'{int(row[0]):04}', int(row[0]), 0, np.linalg.inv(row[1:].reshape(4, 4))) for row in rows]

    @property
    def instances(self):
        with open(self.path / 'objects.csv', newline='') as file:
            return [SceneInstance(int(row['id']), row['name'], {}) for row in csv.DictReader(file)]

    def camera(self, frame):
        rows = np.loadtxt(self.path / 'camera.txt')                    # colour: fx fy cx cy H W; depth likewise
        (color, color_size), (depth, depth_size) = (
            (np.array([[fx, 0, cx], [0, fy, cy], [0, 0, 1]]), (int(h), int(w))) for fx, fy, cx, cy, h, w in rows)
        return Camera(color_size, color, depth_size, depth)

    def color(self, frame):
        return read_photo(self.path / f'rgb_{frame.name}.png')

    def depth_m(self, frame):
        return read_png16(self.path / f'depth_{frame.name}.png').astype(np.float32) / 10000

    def instance_ids(self, frame):
        return read_png16(self.path / f'labels_{frame.name}.png').astype(np.int32)


@DATASETS.register_module()
class NumberedPictures(SceneDataset):
    """Every folder with poses is a scene; the last one is for scoring."""

    def open_scenes(self):
        folders = sorted(path.parent for path in self.root.glob('*/poses.txt'))
        if len(folders) < 2:
            raise DataError(f'{self.root} has {len(folders)} folders with a poses.txt, and needs two at least.')
        return [NumberedScene(path) for path in (folders[:-1] if self.split == 'train' else folders[-1:])]
