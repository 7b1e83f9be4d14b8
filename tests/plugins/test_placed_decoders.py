"""What Relation3D adds to MAFT: normals, boxes of masks, superpoints that change, and those that should look alike."""

from __future__ import annotations

import sys

import numpy as np
import pytest
import torch

from jrs.config import load_config
from jrs.datasets.sampling import SampleRequest
from jrs.datasets.scene import Mesh
from jrs.engine.build import build_dataset
from jrs.errors import ConfigError, DataError
from jrs.plugins import load_plugins
from jrs.registry import MODELS, build
from tests._data import ROOT

load_plugins(['point_clouds'])
batches, decoder, losses, normals, places, augmentation = (
    sys.modules[f'jrs_plugins.point_clouds.{name}']
    for name in ('batch', 'decoder', 'losses', 'normals', 'reference_points', 'augmentation'))


def test_normals_are_those_of_the_faces_around_a_vertex_and_turn_with_the_scene():
    corners = np.array([[0, 0, 0], [1, 0, 0], [0, 5, 0], [0, 0, 1.0], [9, 9, 9]])
    found = normals.vertex_normals(Mesh(corners, corners, np.array([[0, 1, 2], [0, 2, 3]])))       # floor up, wall along x
    np.testing.assert_allclose(found, [[0.5 ** 0.5, 0, 0.5 ** 0.5], [0, 0, 1], [0.5 ** 0.5, 0, 0.5 ** 0.5], [1, 0, 0],
                                       [0, 0, 0]], atol=1e-12)
    with pytest.raises(DataError, match='this one has none'):
        normals.vertex_normals(Mesh(corners, corners, np.zeros((0, 3), int)))


def test_normals_of_a_training_scene_are_those_of_the_scene_that_was_moved(debug_data):
    """A flip, a rotation and a shear: what was normal to a face still is."""
    moves = dict(flip_axes=(0,), rotation=True, affine=0.1, elastic=())
    cfg = load_config(ROOT / 'configs' / 'baselines' / 'relation3d.py', 'debug',
                      {'data_root': str(debug_data), 'train_dataset.augmentation': moves, 'train_dataset.voxel_m': 1e-4})
    data = build_dataset(cfg, 'train_dataset')
    batch, mesh = data[SampleRequest(0, 3, 1, 1.0)], data.scenes[0].mesh()
    given = batch.voxel_features[batch.point_voxel][:, 6:9]
    alone = (torch.bincount(batch.point_voxel) == 1)[batch.point_voxel].numpy()
    assert batch.voxel_features.shape[1] == 9
    moved = normals.vertex_normals(Mesh(batch.positions.double().numpy(), mesh.colors, mesh.faces))
    matrix, _ = augmentation.PointAugmentation(**moves).movement(np.random.default_rng([data.seed, 3]))
    moved *= np.sign(np.linalg.det(matrix))                                     # a flip turns faces inside out
    flat = alone & (np.abs(normals.vertex_normals(mesh)).max(axis=1) > 0.999)   # inside a wall, floor or table top
    assert flat.sum() > 100
    np.testing.assert_allclose(given[flat], moved[flat], atol=5e-3)


def test_the_box_of_a_mask_has_its_most_likely_superpoint_also_where_the_mask_is_empty():
    positions = torch.tensor([[0.0, 0, 0], [2, 0, 0], [2, 4, 6]])
    centre, size = places.mask_boxes(torch.tensor([[1.0, 2, -1], [-1, -3, -2]]), positions)
    assert centre.tolist() == [[1, 0, 0], [0, 0, 0]] and size.tolist() == [[2, 0, 0], [0, 0, 0]]


def relation3d(**options):
    return build(MODELS, dict(type='PlacedDecoder', layers=2, width=8, num_heads=2, hidden=8, **(
        dict(num_queries=3, masks_of='keys', update_after=(0,), relations=True) | options)), 'decoder', dim_in=2,
                 num_classes=4)


def test_superpoints_change_after_the_layers_that_say_so_and_every_weight_learns():
    part = relation3d()
    scene = decoder.Superpoints(torch.randn(5, 2), torch.randn(5, 3), torch.ones(5, dtype=torch.int64))
    found = part(scene)
    before, after, last = found.element_features
    assert not torch.equal(before, after) and torch.equal(after, last)
    torch.testing.assert_close(found.mask_logits[:, 0, 0], found.embedding @ after.T)
    (found.element_features.sum() + sum(level.mask_logits.sum() + level.class_logits.sum() + level.scores.sum()
                                        + level.centres.sum() for level in found.levels)).backward()
    assert not [name for name, value in part.named_parameters() if value.grad is None]
    assert relation3d(masks_of='projection')(scene).element_features is None and part.eval()(scene).element_features is None


def test_reference_points_start_all_over_the_box():
    start = relation3d(num_queries=400).reference.sigmoid()
    shares = torch.stack([(start < edge).float().mean(dim=0) for edge in (0.1, 0.5, 0.9)])
    torch.testing.assert_close(shares, torch.tensor([0.1, 0.5, 0.9])[:, None].expand(3, 3), atol=0.08, rtol=0)


@pytest.mark.parametrize('options', [dict(masks_of='queries'), dict(update_after=(0, 2))])
def test_a_decoder_that_cannot_be_is_refused(options):
    with pytest.raises(ConfigError, match=r'masks_of must be one of .* name layers out of 0 .. 1, got'):
        relation3d(**options)


def test_superpoints_have_the_number_of_most_of_their_points_or_that_of_the_release():
    superpoints = torch.tensor([0, 0, 0, 1, 1, 2])
    ids = torch.tensor([1, 1, 4, 0, 0, 3])
    assert batches._numbers(ids, superpoints, 3, 'most').tolist() == [1, 0, 3]
    assert batches._numbers(ids, superpoints, 3, 'floored_mean').tolist() == [1, -100, 2]   # (0 + 0 + 3) / 3: nobody's


def test_the_contrast_is_least_where_alike_are_alike_and_says_what_it_lacks():
    ids = torch.tensor([1, 1, 2])
    target = losses.PointTargets(torch.zeros(0), torch.zeros(0, 1, 1, 3), torch.ones(0, 1), superpoint_ids=ids)
    part, right = losses.SuperpointContrastLoss(), torch.tensor([[1.0, 0], [3, 0], [-1, 0]])
    assert part(decoder.PointPredictions(right, element_features=right[None]), target, None) < 1e-6
    assert part(decoder.PointPredictions(right, element_features=torch.stack([right, right.abs()])), target, None) > 1
    with pytest.raises(ConfigError, match='masks_of'):
        part(decoder.PointPredictions(right), target, None)
