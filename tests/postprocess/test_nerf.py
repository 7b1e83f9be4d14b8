"""transforms.json against nerfstudio's documented format: keys, axes, and points that lie on the pictures."""

import json

import numpy as np
import torch

from jrs.io.ply import read_ply
from jrs.postprocess.nerf import transforms_record
from tests.postprocess.test_colmap import exported, ramp, save

# docs.nerf.studio, "Data conventions": keys of the file and of a frame that are ours to write.
TOP = {'camera_model', 'k1', 'k2', 'p1', 'p2', 'ply_file_path', 'applied_transform', 'frames'}
FRAME = {'file_path', 'fl_x', 'fl_y', 'cx', 'cy', 'w', 'h', 'colmap_im_id', 'transform_matrix'}


def test_cameras_look_along_their_minus_z_and_the_world_stands_upright():
    cam_from_world = torch.eye(4).repeat(2, 1, 1)
    cam_from_world[1, :3, 3] = torch.tensor([0.0, 0.5, -2.0])         # at (0, -0.5, 2): up by half, two forward
    intrinsics = torch.tensor([[50.0, 0, 79.5], [0, 55, 59.5], [0, 0, 1]]).repeat(2, 1, 1)
    record = transforms_record(['images/a.jpg', 'images/b.jpg'], [(120, 160)] * 2, intrinsics, cam_from_world)
    assert set(record) == TOP and all(set(frame) == FRAME for frame in record['frames'])
    assert record['camera_model'] == 'OPENCV' and np.shape(record['applied_transform']) == (3, 4)
    first, second = (np.array(frame['transform_matrix']) for frame in record['frames'])
    assert np.allclose(first[:3, :3] @ [0, 0, -1], [0, 1, 0])          # it looks along y …
    assert np.allclose(first[:3, :3] @ [0, 1, 0], [0, 0, 1])           # … and its up is z
    assert np.allclose(second[:3, 3], [0, 2, 0.5])
    frame = record['frames'][0]
    assert (frame['cx'], frame['cy'], frame['w'], frame['h']) == (80, 60, 160, 120)        # the middle: half of the size


def test_points_project_onto_pixels_of_their_colour(tmp_path):
    """By the documented rules alone: OpenGL axes, camera to world, centres of pixels at half-integers."""
    for number in range(3):
        save(tmp_path / f'{number}.png', ramp(number))
    exported(tmp_path, tmp_path / 'out')
    folder = tmp_path / 'out' / 'colmap'
    record = json.loads((folder / 'transforms.json').read_text())
    points = read_ply(folder / record['ply_file_path'])[0]
    places = np.stack([points[name] for name in 'xyz'], axis=1)
    colours = np.stack([points[name] for name in ('red', 'green', 'blue')], axis=1).astype(float)
    for number, frame in enumerate(record['frames']):
        assert (folder / frame['file_path']).is_file()
        local = np.c_[places, np.ones(len(places))] @ np.linalg.inv(np.array(frame['transform_matrix'])).T
        own = np.abs(colours[:, 2] - 20 * number) < 5                  # blue is the picture's number
        u = frame['fl_x'] * local[:, 0] / -local[:, 2] + frame['cx'] - 0.5
        v = frame['fl_y'] * -local[:, 1] / -local[:, 2] + frame['cy'] - 0.5
        assert own.sum() > 100 and (local[own, 2] < 0).all()
        red, green = 20 + 200 * u / (frame['w'] - 1), 20 + 200 * v / (frame['h'] - 1)
        assert np.abs(red - colours[:, 0])[own].max() < 6 and np.abs(green - colours[:, 1])[own].max() < 6
