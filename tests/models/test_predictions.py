"""What a geometry head may predict beside cameras and depth, and what of it reaches users."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from jrs.backbones.vggt import VGGT
from jrs.geometry.camera import decode_cameras, encode_cameras, predicted_cameras
from jrs.postprocess.export import cameras_record
from jrs.registry import MODELS, build
from jrs.structures import Predictions
from tests._data import random_batch
from tests.small_scene import small_photos, small_scene

SIZE = (56, 56)
BACKBONE = dict(img_size=56, embed_dim=16, depth=1, num_heads=2, patch_embed='conv', feature_layers=(0,))


class Wide(nn.Module):
    """Predicts a shifted principal point, points in a world of its own, and rays."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))

    def forward(self, features):
        batch, views = features.taps[0].shape[:2]
        height, width = features.image_size
        cam_from_world = torch.eye(4).repeat(batch, views, 1, 1)
        cam_from_world[..., :3, 3] = torch.arange(1.0, views + 1)[:, None] * self.scale
        intrinsics = torch.tensor([[50.0, 0, 20], [0, 60, 33], [0, 0, 1]]).expand(batch, views, 3, 3)
        return Predictions([encode_cameras(cam_from_world, intrinsics, features.image_size)],
                           torch.ones(batch, views, height, width), torch.full((batch, views, height, width), 2.0),
                           points=torch.zeros(batch, views, height, width, 3), intrinsics=intrinsics,
                           extras=dict(rays=torch.ones(batch, views, height, width, 3),
                                       metric=torch.tensor([3.0, 4.0])[:batch]))


class Metric(VGGT):
    scale, has_reference_view = 'metric, approximate', False


@pytest.fixture
def model():
    torch.manual_seed(0)
    return build(MODELS, dict(type='SegVGGT', backbone=Metric(**BACKBONE), geometry_head=Wide()), 'model').eval()


def test_all_that_a_geometry_head_predicts_arrives_with_the_scale_of_the_backbone(model):
    found = model.predict_all(random_batch(2, num_scenes=2))
    assert found.scale == 'metric, approximate' and set(found.extras) == {'rays', 'metric'}
    cam_from_world, intrinsics = predicted_cameras(found, SIZE)
    assert intrinsics[0, 0].tolist() == [[50, 0, 20], [0, 60, 33], [0, 0, 1]]
    torch.testing.assert_close(cam_from_world[:, 0], torch.eye(4).expand(2, 4, 4))
    torch.testing.assert_close(cam_from_world[0, 1, :3, 3], torch.ones(3))
    torch.testing.assert_close(found.points, torch.ones_like(found.points))                 # moved with the first camera
    moved = found.to('cpu')
    assert moved.extras['metric'].tolist() == [3, 4] and moved.scale == found.scale


def test_a_reconstruction_has_principal_point_scale_and_extras_of_its_scene(model):
    first, second = model.reconstruct(random_batch(2, num_scenes=2))
    assert second.intrinsics[1, :2, 2].tolist() == [20, 33] and second.intrinsics[1, [0, 1], [0, 1]].tolist() == [50, 60]
    assert second.scale == 'metric, approximate' and second.extras['metric'] == 4 and first.extras['metric'] == 3
    assert second.extras['rays'].shape == (2, *SIZE, 3)


def test_without_intrinsics_the_field_of_view_decides_and_the_point_is_in_the_middle():
    encoding = torch.tensor([[[0.0, 0, 0, 0, 0, 0, 1, 1.0, 0.8]]])
    found, expected = predicted_cameras(Predictions([encoding]), SIZE), decode_cameras(encoding, SIZE)
    assert all(torch.equal(*pair) for pair in zip(found, expected, strict=True)) and found[1][0, 0, 0, 2] == 28


def test_intrinsics_follow_images_to_another_size():
    lens = torch.tensor([[50.0, 0, 20], [0, 60, 33], [0, 0, 1]])[None, None]
    encoding = torch.tensor([[[0.0, 0, 0, 0, 0, 0, 1, 1.0, 0.8]]])
    found = predicted_cameras(Predictions([encoding], intrinsics=lens), (112, 28), (56, 56))[1][0, 0]
    point = torch.tensor([0.3, -0.2, 1.0])
    before, after = lens[0, 0] @ point, found @ point
    torch.testing.assert_close(after[:2] + 0.5, (before[:2] + 0.5) * torch.tensor([0.5, 2.0]))


@pytest.mark.parametrize(('scale', 'words'), [('metric', 'metres'), ('metric, approximate', 'approximately'),
                                              ('arbitrary', 'one unknown factor')])
def test_cameras_json_says_the_unit(scale, words):
    scene = small_scene()
    scene.scale = scale
    assert words in cameras_record(scene, small_photos(scene))['scale']
