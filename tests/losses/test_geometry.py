"""Camera, depth and point terms where the golden data does not reach: no valid pixels, non-finite values, limits."""

import pytest
import torch

from jrs.errors import ConfigError
from jrs.losses.camera import CameraLoss
from jrs.losses.depth import DepthLoss, PointLoss
from jrs.losses.regression import fix, mean_of_smallest, surface_normals
from jrs.structures import GeometryTargets, Predictions


def batch(views=2, size=(12, 14), stages=4, seed=0):
    generator = torch.Generator().manual_seed(seed)

    def random(*shape):
        return torch.rand(*shape, generator=generator)
    leaves = dict(depth=1 + random(2, views, *size), depth_conf=1.1 + random(2, views, *size),
                  points=random(2, views, *size, 3), points_conf=1.1 + random(2, views, *size))
    poses = [random(2, views, 9).requires_grad_() for _ in range(stages)]
    predictions = Predictions(poses, **{name: leaf.requires_grad_() for name, leaf in leaves.items()})
    target = GeometryTargets(random(2, views, 9), 1 + random(2, views, *size),
                             torch.ones(2, views, *size, dtype=torch.bool), random(2, views, *size, 3))
    return predictions, target


def test_a_perfect_camera_loses_nothing_and_stages_weigh_more_towards_the_last():
    predictions, target = batch()
    predictions.pose_encodings = [target.pose_encoding.clone() for _ in range(4)]
    assert CameraLoss()(predictions, target)['total'] == 0
    for stage, weight in enumerate((0.216, 0.36, 0.6, 1.0)):
        stages = [target.pose_encoding.clone() for _ in range(4)]
        stages[stage][..., :3] += 1
        predictions.pose_encodings = stages
        assert CameraLoss()(predictions, target)['translation'].item() == pytest.approx(weight / 4, rel=1e-5)


def test_field_of_view_counts_half_and_differences_stop_at_100():
    predictions, target = batch()
    predictions.pose_encodings = [target.pose_encoding + torch.tensor([1e9] * 3 + [0] * 4 + [1] * 2)]
    terms = CameraLoss()(predictions, target)
    assert terms['translation'] == 100
    assert terms['total'].item() == pytest.approx(100 + 0.5, rel=1e-5)


@pytest.mark.parametrize('loss', [CameraLoss(), DepthLoss(), PointLoss(), DepthLoss(gradient=None)])
def test_too_few_valid_pixels_give_zero_with_a_gradient(loss):
    predictions, target = batch()
    target.valid[:] = False
    target.valid[0, 0].flatten()[:99] = True
    terms = loss(predictions, target)
    assert all(value == 0 for value in terms.values())
    terms['total'].backward()
    reads = predictions.pose_encodings[0] if isinstance(loss, CameraLoss) else (
        predictions.depth if isinstance(loss, DepthLoss) else predictions.points)
    assert reads.grad is not None and reads.grad.abs().sum() == 0


@pytest.mark.parametrize('loss', [DepthLoss(), DepthLoss(gradient='grad_conf'), PointLoss(), PointLoss(gradient='grad')])
@pytest.mark.parametrize('views', [1, 3])
def test_invalid_pixels_do_not_matter_and_gradients_are_finite(loss, views):
    predictions, target = batch(views)
    target.valid[:, :, ::2] = False
    plain = loss(predictions, target)
    target.depth[~target.valid], target.points[~target.valid] = float('nan'), float('inf')
    terms = loss(predictions, target)
    for name in plain:
        torch.testing.assert_close(terms[name], plain[name])
    terms['total'].backward()
    reached = [leaf.grad for leaf in (predictions.depth, predictions.points) if leaf.grad is not None]
    assert len(reached) == 1 and reached[0].isfinite().all()


def test_depth_terms_equal_a_loop_on_constant_errors():
    predictions, target = batch()
    with torch.no_grad():
        predictions.depth.copy_(target.depth + 0.5)
        predictions.depth_conf.fill_(2.0)
    terms = DepthLoss(gamma=3.0, alpha=0.4)(predictions, target)
    assert terms['regression'].item() == pytest.approx(0.5, rel=1e-5)
    assert terms['confidence'].item() == pytest.approx(3 * 0.5 * 2 - 0.4 * 0.6931472, rel=1e-5)
    assert terms['gradient'].item() == pytest.approx(0, abs=1e-5)


def test_the_order_of_views_does_not_change_the_depth_loss():
    predictions, target = batch(views=3)
    order = [2, 0, 1]
    moved = Predictions([], predictions.depth[:, order], predictions.depth_conf[:, order])
    moved_target = GeometryTargets(target.pose_encoding, target.depth[:, order], target.valid[:, order])
    torch.testing.assert_close(DepthLoss()(moved, moved_target)['total'], DepthLoss()(predictions, target)['total'])


def test_a_plane_has_equal_normals_inside():
    rows, columns = torch.meshgrid(torch.arange(5.0), torch.arange(6.0), indexing='ij')
    normals = surface_normals(torch.stack([columns, rows, torch.ones(5, 6)], dim=-1)[None])
    assert normals.shape == (4, 1, 5, 6, 3)
    inside = normals[:, :, 1:-1, 1:-1]
    torch.testing.assert_close(inside, inside[:1, :1, :1, :1].expand_as(inside))
    assert inside[0, 0, 0, 0].abs().tolist() == [0, 0, 1]


def test_the_filter_keeps_the_smallest_share_and_leaves_few_values_alone():
    values = torch.arange(2001.0).flip(0) / 100
    torch.testing.assert_close(mean_of_smallest(values, 0.98), values.sort().values[:1960].mean())
    torch.testing.assert_close(mean_of_smallest(values, -1), values.mean())
    torch.testing.assert_close(mean_of_smallest(values[:1000], 0.98), values[:1000].mean())
    assert mean_of_smallest(torch.full((5000,), 1e6), 0.98) == 100             # nothing is strictly below: all, clamped
    torch.testing.assert_close(mean_of_smallest(values[:1001], 0.5), values[:1001].mean())      # 500 are too few


def test_fix_removes_what_is_not_finite():
    assert fix(torch.tensor([float('nan'), float('inf'), -float('inf'), 500.0, -500.0, 1.0])).tolist() == [
        0, 0, 0, 100, -100, 1]


def test_wrong_options_and_missing_predictions_are_refused():
    _, target = batch()
    with pytest.raises(ConfigError, match="DepthLoss has no gradient term 'gradd'. Did you mean 'grad'"):
        DepthLoss(gradient='gradd')
    with pytest.raises(ConfigError, match="CameraLoss has no distance 'huber'"):
        CameraLoss('huber')
    for loss in (CameraLoss(), DepthLoss(), PointLoss()):
        with pytest.raises(ConfigError, match='or set this loss to None'):
            loss(Predictions([]), target)
