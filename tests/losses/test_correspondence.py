"""What pre-training tells patches: where in other views their points are, checked on a wall that a camera moves along."""

import math

import pytest
import torch

from jrs.config import load_config
from jrs.errors import ConfigError
from jrs.io.weights import load_weights, save_weights
from jrs.losses.correspondence import displacements, matching_term, patch_matches, patch_points
from jrs.models.teacher import geometry_targets
from jrs.registry import MODELS, build
from tests._data import random_batch

CONFIG = 'configs/geometry/pretrain_rooms.py'
PATCH, H, W, FOCAL, DEPTH = 14, 28, 42, 42.0, 3.0                      # 2 x 3 patches


def wall(step: float, blocked: bool = False):
    """Two cameras before a wall; the second stands where everything moves `step` patches to the left. -> targets"""
    cam_from_world = torch.eye(4).repeat(1, 2, 1, 1)
    cam_from_world[0, 1, 0, 3] = -step * PATCH * DEPTH / FOCAL
    intrinsics = torch.tensor([[FOCAL, 0, (W - 1) / 2], [0, FOCAL, (H - 1) / 2], [0, 0, 1.0]]).repeat(1, 2, 1, 1)
    depth = torch.full((1, 2, H, W), DEPTH)
    if blocked:
        depth[0, 1, :PATCH, :PATCH] = DEPTH / 2                         # something stands before the first patch
    return geometry_targets(cam_from_world, intrinsics, depth, depth > 0)


def told(geometry):
    points, known = patch_points(geometry, PATCH)
    return patch_matches(geometry, points, known, PATCH), known


def test_patches_match_where_the_camera_moved_them():
    (_, matches), known = told(wall(step=1))
    assert known.all() and matches.shape == (1, 2, 6, 2)
    assert (matches[0, [0, 1], :, [0, 1]] == -1).all()                  # never in the own view
    assert matches[0, 0, :, 1].tolist() == [-1, 0, 1, -1, 3, 4]
    assert matches[0, 1, :, 0].tolist() == [1, 2, -1, 4, 5, -1]


def test_a_hidden_point_has_no_match():
    (_, matches), _ = told(wall(step=1, blocked=True))
    assert matches[0, 0, :, 1].tolist() == [-1, -1, 1, -1, 3, 4]
    assert matches[0, 1, 0, 0] == -1                                    # what hides it is elsewhere in the first view


def test_displacements_are_measured_in_patches_from_the_own_view_to_the_first():
    (pixels, _), known = told(wall(step=1))
    shift, counted = displacements(pixels, known, (H, W), PATCH)
    assert not counted[0, 0].any()
    torch.testing.assert_close(shift[0, 1], torch.tensor([1.0, 0.0]).expand(6, 2), atol=1e-4, rtol=0)
    far, _ = told(wall(step=2.5))
    counted = displacements(far[0], known, (H, W), PATCH)[1]
    assert counted[0, 1].tolist() == [True, False, False] * 2           # the others lie too far beyond the border


def test_what_lies_behind_the_first_camera_is_not_told():
    geometry = wall(step=0)
    geometry.points[0, 1] *= torch.tensor([1.0, 1.0, -1.0])
    (pixels, matches), known = told(geometry)
    shift, counted = displacements(pixels, known, (H, W), PATCH)
    assert not counted.any() and shift.isfinite().all() and (matches[0, 1] == -1).all()


def test_the_matching_term_is_minus_log_of_what_matches_are_paid():
    (_, matches), _ = told(wall(step=1))
    special, tokens = 2, 8
    even = torch.full((1, 1, 2, tokens, 2, tokens), -math.log(2 * tokens), requires_grad=True)
    patch_index = torch.arange(special, tokens)
    term = matching_term(even, matches, patch_index)
    assert term.item() == pytest.approx(math.log(2 * tokens))
    term.backward()
    assert even.grad.isfinite().all() and even.grad[0, 0, 0, special, :].abs().sum() == 0       # patch 0 of view 0: no match
    certain = torch.full((1, 1, 2, tokens, 2, tokens), -1e4)
    for view, patch, other in (matches >= 0)[0].nonzero().tolist():
        certain[0, 0, view, patch + special, other, matches[0, view, patch, other] + special] = 0.0
    assert matching_term(certain, matches, patch_index).item() == pytest.approx(0.0, abs=1e-6)


def load_and_build(**changes):
    torch.manual_seed(0)
    return build(MODELS, dict(load_config(CONFIG, 'debug').model, **changes), 'model')


@pytest.fixture
def model():
    return load_and_build()


def test_blocks_that_run_twice_are_refused():
    model = load_config(CONFIG, 'debug').model
    with pytest.raises(ConfigError, match='activation_checkpointing=False'):
        load_and_build(backbone=dict(model.backbone, activation_checkpointing=True))


def test_attention_starts_sharper(model):
    blocks = (*model.backbone.frame_blocks, *model.backbone.global_blocks)
    assert all((block.attn.q_norm.weight == 2).all() for block in blocks)


def test_all_terms_reach_the_attention_that_they_are_about(model):
    terms = model.loss(random_batch())
    assert {'loss_matching', 'loss_displacement', 'loss_patch_points', 'loss_camera', 'loss_depth'} <= set(terms)
    terms['loss_matching'].backward()
    supervised = model.backbone.global_blocks[1].attn
    assert supervised.q_norm.weight.grad.abs().sum() > 0
    width = model.backbone.head_width
    query_rows = supervised.qkv.weight.grad[:2 * width]                 # of both heads
    assert query_rows[:width].abs().sum() > 0 and query_rows[width:].abs().sum() == 0      # the second head is free
    assert not model.backbone._watched


def test_weights_are_those_of_a_plain_model(model, tmp_path):
    save_weights(model, tmp_path / 'w.safetensors', {})
    cfg = load_config('configs/geometry/segvggt_geometry_only.py', 'debug')
    plain = build(MODELS, cfg.model, 'model')
    report = load_weights(plain, tmp_path / 'w.safetensors')
    assert not report.missing and not report.left_over and {key.split('.')[0] for key in report.skipped} == {'pretext'}
    assert all(torch.equal(value, model.state_dict()[name]) for name, value in plain.state_dict().items())


@pytest.mark.parametrize('wrong', [dict(matching_layers=(4,)), dict(displacement_layers=(-1,))])
def test_layers_that_do_not_exist_are_refused(wrong):
    with pytest.raises(ConfigError, match='matching_layers'):
        load_and_build(pretext=dict(type='Correspondence', **wrong))


def test_without_a_teacher_it_predicts_and_does_not_train():
    model = load_and_build(teacher=None)
    assert model.reconstruct(random_batch())[0].cam_from_world.shape == (3, 4, 4)
    with pytest.raises(ConfigError, match='model.teacher'):
        model.loss(random_batch())
