"""Both teachers give the same targets for the same geometry; a pre-trained one stays outside the student."""

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from jrs.errors import ConfigError, DataError, WeightsError
from jrs.geometry.camera import decode_cameras, encode_cameras
from jrs.geometry.projection import unproject_depth
from jrs.losses.depth import DepthLoss
from jrs.models.teacher import GroundTruthTeacher, PretrainedTeacher, median_by_sorting, median_where
from jrs.structures import Predictions, SceneBatch

SIZE = (6, 8)


def scene_batch(views=3, seed=0):
    generator = torch.Generator().manual_seed(seed)
    encoding = torch.randn(2, views, 9, generator=generator)
    encoding[..., 7:] = 0.8 + 0.2 * torch.rand(2, views, 2, generator=generator)
    cam_from_world, intrinsics = decode_cameras(encoding, SIZE)
    depth = 1 + torch.rand(2, views, *SIZE, generator=generator)
    return SceneBatch(torch.rand(2, views, 3, *SIZE, generator=generator), ['a', 'b'], [['0'] * views] * 2,
                      depth_m=depth, intrinsics=intrinsics, cam_from_world=cam_from_world)


class Oracle(nn.Module):
    """Predicts cameras and depth that it was given, times its one weight."""

    def __init__(self, batch, scale=1.0):
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(float(scale)))
        self.dropout = nn.Dropout(0.5)
        self.batch = batch

    def forward(self, batch):
        assert batch.depth_m is None and batch.cam_from_world is None           # a teacher sees images only
        cam_from_world = self.batch.cam_from_world.clone()
        cam_from_world[..., :3, 3] *= self.scale
        encoding = encode_cameras(cam_from_world, self.batch.intrinsics, SIZE)
        depth = self.dropout(self.scale * self.batch.depth_m)
        return Predictions([torch.zeros_like(encoding), encoding], depth, depth + 1)


@pytest.fixture
def checkpoint(tmp_path):
    def write(**entries):
        path = tmp_path / 'teacher.safetensors'
        save_file({name: torch.tensor(value) for name, value in entries.items()}, path)
        return str(path)
    return write


def test_ground_truth_is_in_the_first_camera_with_mean_point_distance_one():
    batch = scene_batch()
    target = GroundTruthTeacher()(batch)
    cam_from_world, intrinsics = decode_cameras(target.pose_encoding, SIZE)
    torch.testing.assert_close(cam_from_world[:, 0], torch.eye(4).expand(2, 4, 4), atol=1e-5, rtol=0)
    torch.testing.assert_close(intrinsics[..., 0, 0], batch.intrinsics[..., 0, 0])
    _, points = unproject_depth(target.depth, intrinsics, cam_from_world)
    torch.testing.assert_close(points, target.points, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(points.norm(dim=-1).mean(dim=(1, 2, 3)), torch.ones(2), atol=1e-4, rtol=1e-4)
    assert target.valid.all()


def test_pixels_without_a_reading_are_not_valid_and_do_not_change_the_unit():
    batch = scene_batch()
    batch.depth_m[0, :, :3] = 0
    target = GroundTruthTeacher()(batch)
    assert torch.equal(target.valid, batch.depth_m > 0)
    assert (target.depth[~target.valid] == 0).all()
    distance = target.points.norm(dim=-1)
    assert distance[0][target.valid[0]].mean().item() == pytest.approx(1, abs=1e-4)


def test_targets_do_not_depend_on_the_unit_or_the_world_of_the_data():
    batch, moved = scene_batch(), scene_batch()
    world = decode_cameras(torch.tensor([1.0, 2, 3, 0.1, 0.2, 0.3, 0.9, 1, 1]), SIZE)[0]
    moved.cam_from_world = moved.cam_from_world @ world
    moved.cam_from_world[..., :3, 3] *= 2.5
    moved.depth_m = moved.depth_m * 2.5
    for name in ('pose_encoding', 'depth', 'points'):
        one, other = (getattr(GroundTruthTeacher()(each), name) for each in (batch, moved))
        torch.testing.assert_close(one, other, atol=1e-4, rtol=1e-3)


def test_data_without_geometry_is_refused():
    batch = scene_batch()
    batch.depth_m = None
    with pytest.raises(DataError, match='needs depth_m, which the scenes a, b do not have'):
        GroundTruthTeacher()(batch)


def test_a_teacher_that_knows_the_truth_teaches_it_in_its_own_unit(checkpoint):
    batch = scene_batch()
    teacher = PretrainedTeacher(Oracle(batch), checkpoint(scale=3.0, of_another_head=1.0))
    target, truth = teacher(batch), GroundTruthTeacher()(batch)
    assert teacher.model.scale == 3
    for name in ('pose_encoding', 'depth', 'points'):
        torch.testing.assert_close(getattr(target, name), getattr(truth, name), atol=1e-4, rtol=1e-3)
    assert target.valid.all() and not target.depth.requires_grad


def test_the_weights_of_a_teacher_are_said_to_be_its_own(checkpoint, monkeypatch):
    said = []
    for module in ('jrs.models.teacher', 'jrs.io.weights'):
        monkeypatch.setattr(f'{module}.print_log', lambda words, logger: said.append(words))
    batch = scene_batch()
    PretrainedTeacher(Oracle(batch), checkpoint(scale=1.0))(batch)
    assert 'the teacher, which is not trained, takes its weights from' in said[0] and '1 used' in said[1]


def test_the_student_neither_trains_nor_saves_its_teacher(checkpoint):
    batch = scene_batch()
    student = nn.Linear(2, 2)
    student.teacher = PretrainedTeacher(Oracle(batch), checkpoint(scale=1.0))
    before = student.teacher(batch).depth
    student.train()
    assert torch.equal(student.teacher(batch).depth, before)        # dropout stays off
    assert set(student.state_dict()) == {'weight', 'bias'}
    assert len(list(student.parameters())) == 2
    assert not any(parameter.requires_grad for parameter in student.teacher.model.parameters())


def test_building_a_student_does_not_need_the_weights_but_the_first_step_does(tmp_path):
    teacher = PretrainedTeacher(Oracle(scene_batch()), str(tmp_path / 'absent.safetensors'))
    with pytest.raises(WeightsError, match='absent.safetensors'):
        teacher(scene_batch())


def test_weights_that_do_not_fit_are_refused(checkpoint):
    batch = scene_batch()
    with pytest.raises(WeightsError, match=r'1 missing.*Missing: .*scale'):
        PretrainedTeacher(Oracle(batch), checkpoint(size=1.0))(batch)
    with pytest.raises(WeightsError, match=r'scale: file \(2,\), model \(\)'):
        PretrainedTeacher(Oracle(batch), checkpoint(scale=[1.0, 2.0]))(batch)


@pytest.mark.parametrize('truth', ['cameras', 'depth'])
def test_truth_replaces_one_part_and_the_other_is_brought_to_its_unit(checkpoint, truth):
    """A teacher that is right up to its unit gives the truth, whichever part is replaced."""
    batch = scene_batch()
    batch.depth_m[0, :, :2] = 0                                     # no reading
    target, expected = PretrainedTeacher(Oracle(scene_batch(), 3.0), checkpoint(scale=3.0), truth=truth)(batch), \
        GroundTruthTeacher()(batch if truth == 'depth' else scene_batch())
    for name in ('pose_encoding', 'depth', 'points'):
        torch.testing.assert_close(getattr(target, name), getattr(expected, name), atol=1e-3, rtol=1e-2)
    assert torch.equal(target.valid, batch.depth_m > 0 if truth == 'depth' else torch.ones_like(target.valid))


def test_truth_shows_where_the_teacher_is_wrong_only_in_the_other_part(checkpoint):
    batch, wrong = scene_batch(), scene_batch(seed=1)
    truth = GroundTruthTeacher()(batch)
    for part in ('cameras', 'depth'):
        target = PretrainedTeacher(Oracle(wrong), checkpoint(scale=1.0), truth=part)(batch)
        rotation_and_view = torch.allclose(target.pose_encoding[..., 3:], truth.pose_encoding[..., 3:], atol=1e-4)
        shape = target.depth / target.depth.flatten(1).mean(1)[:, None, None, None]
        true_shape = truth.depth / truth.depth.flatten(1).mean(1)[:, None, None, None]
        assert rotation_and_view == (part == 'cameras') and torch.allclose(shape, true_shape, atol=1e-4) == (part == 'depth')


def test_truth_may_be_the_scale_alone_and_metres_are_known_where_the_data_have_a_reading(checkpoint):
    batch, own = scene_batch(), Oracle(scene_batch(), 3.0)
    plain = PretrainedTeacher(own, checkpoint(scale=3.0))(batch)
    scaled = PretrainedTeacher(own, checkpoint(scale=3.0), truth='scale')(batch)
    for name in ('pose_encoding', 'depth', 'points', 'valid'):
        torch.testing.assert_close(getattr(scaled, name), getattr(plain, name), atol=1e-4, rtol=1e-4)
    assert plain.unit_m is None
    torch.testing.assert_close(scaled.unit_m, GroundTruthTeacher()(batch).unit_m, rtol=1e-2, atol=0)
    batch.depth_m[1] = 0
    for teacher in (PretrainedTeacher(own, checkpoint(scale=3.0), truth='scale'), GroundTruthTeacher()):
        assert teacher(batch).unit_m.isfinite().tolist() == [True, False]


def test_truth_that_does_not_exist_or_is_not_in_the_data_is_refused(checkpoint):
    with pytest.raises(ConfigError, match="'cameras', 'depth' or 'scale', got 'pose'"):
        PretrainedTeacher(dict(), 'x', truth='pose')
    batch = scene_batch()
    batch.depth_m = None
    with pytest.raises(DataError, match='PretrainedTeacher needs depth_m.*truth'):
        PretrainedTeacher(Oracle(scene_batch()), checkpoint(scale=1.0), truth='cameras')(batch)


def test_a_scene_without_a_reading_keeps_the_teacher_s_unit(checkpoint):
    batch = scene_batch()
    batch.depth_m[1] = 0
    target = PretrainedTeacher(Oracle(scene_batch()), checkpoint(scale=1.0), truth='depth')(batch)
    assert all(getattr(target, name).isfinite().all() for name in ('pose_encoding', 'depth', 'points'))


class Ramp(nn.Module):
    """Sees images of its own size only; depth rises along both axes as the place in the image does, cameras are given."""

    def __init__(self, encoding, patch_size):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(1))
        self.backbone = nn.Module()
        self.backbone.patch_size, self.encoding, self.seen = patch_size, encoding, None

    def forward(self, batch):
        self.seen = batch.images
        assert all(side % self.backbone.patch_size == 0 for side in batch.images.shape[-2:])
        return Predictions([self.encoding], ramp(*batch.images.shape[:2], *batch.images.shape[-2:]), None)


def ramp(scenes, views, height, width):
    """Depth (B, V, H, W), linear in where pixel centres lie from corner to corner of the image."""
    down, across = (((torch.arange(count) + 0.5) / count) for count in (height, width))
    return (1 + down[:, None] + 2 * across).expand(scenes, views, -1, -1)


@pytest.mark.parametrize(('size', 'patch_size', 'own'), [
    ((32, 64), 14, (28, 70)), ((32, 64), 16, (32, 64)), ((42, 56), 16, (48, 64)), ((8, 64), 20, (20, 60))])
def test_a_teacher_sees_images_of_its_own_size_and_teaches_at_the_student_s(checkpoint, size, patch_size, own):
    images = ramp(2, 3, *size)[:, :, None].expand(-1, -1, 3, -1, -1) / 4
    encoding = torch.tensor([0.1, 0, 0.2, 0, 0, 0, 1, 0.7, 1.1]).expand(2, 3, 9).clone()
    encoding[:, 0, :3] = 0
    model = Ramp(encoding, patch_size)
    target = PretrainedTeacher(model, checkpoint(weight=[1.0]))(SceneBatch(images, ['a', 'b'], [['0'] * 3] * 2))
    inside = (..., slice(2, -2), slice(2, -2))                             # at the border there is nothing to go on with
    assert model.seen.shape[-2:] == own
    torch.testing.assert_close(model.seen[inside], (ramp(2, 3, *own)[:, :, None] / 4).expand_as(model.seen)[inside],
                               atol=0.02, rtol=0)
    assert target.depth.shape == target.valid.shape == (2, 3, *size) and target.valid.all()
    unit = (target.depth / ramp(2, 3, *size))[inside]
    torch.testing.assert_close(unit, unit.mean().expand_as(unit), rtol=0.02, atol=0)
    torch.testing.assert_close(target.pose_encoding[..., 7:], encoding[..., 7:])
    _, intrinsics = decode_cameras(encoding, size)
    _, points = unproject_depth(target.depth, intrinsics, decode_cameras(target.pose_encoding, size)[0])
    torch.testing.assert_close(points, target.points, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(('truth', 'lacking'), [(None, 'no cameras and no depth'), ('cameras', 'no depth'),
                                                ('depth', 'no cameras and no depth')])
def test_a_teacher_without_a_head_that_is_read_is_named(checkpoint, truth, lacking):
    class Blind(Ramp):
        def forward(self, batch):
            return Predictions([])
    teacher = PretrainedTeacher(Blind(torch.zeros(2, 3, 9), 1), checkpoint(weight=[1.0]), truth=truth)
    with pytest.raises(ConfigError, match=f'its model predicts {lacking}'):
        teacher(scene_batch())


def test_true_cameras_need_no_cameras_of_the_teacher(checkpoint):
    class Depth(Ramp):
        def forward(self, batch):
            return Predictions([], ramp(2, 3, *SIZE))
    target = PretrainedTeacher(Depth(None, 1), checkpoint(weight=[1.0]), truth='cameras')(scene_batch())
    expected = GroundTruthTeacher()(scene_batch()).pose_encoding
    torch.testing.assert_close(target.pose_encoding[..., 3:], expected[..., 3:])       # lengths are in units of the depth


def test_a_teacher_may_keep_its_own_unit(checkpoint):
    batch = scene_batch()
    own = PretrainedTeacher(Oracle(batch), checkpoint(scale=3.0), rescale=False)(batch)
    torch.testing.assert_close(own.depth, 3 * batch.depth_m)
    scaled = PretrainedTeacher(Oracle(batch), checkpoint(scale=3.0))(batch)
    unit = (own.depth / scaled.depth).mean(dim=(1, 2, 3))                                   # (B,)
    torch.testing.assert_close(own.pose_encoding[..., :3], unit[:, None, None] * scaled.pose_encoding[..., :3],
                               atol=1e-4, rtol=1e-3)
    torch.testing.assert_close(own.pose_encoding[..., 3:], scaled.pose_encoding[..., 3:])
    assert (unit - 1).abs().min() > 1
    metres = PretrainedTeacher(Oracle(batch), checkpoint(scale=3.0), truth='scale', rescale=False)(batch)
    torch.testing.assert_close(metres.depth, batch.depth_m)
    assert metres.unit_m.tolist() == [1, 1]


def test_errors_of_depth_may_count_by_the_teacher_s_confidence(checkpoint):
    batch = scene_batch()
    plain, weighed = (PretrainedTeacher(Oracle(batch), checkpoint(scale=1.0), weigh=weigh)(batch) for weigh in (False, True))
    assert plain.weight is None
    confidence = batch.depth_m + 1                                                          # as `Oracle` says
    torch.testing.assert_close(weighed.weight, confidence / confidence.mean(dim=(1, 2, 3), keepdim=True))
    torch.testing.assert_close(weighed.depth, plain.depth)
    loss, wrong = DepthLoss(alpha=0, valid_range=0, gradient=None), plain.depth.clone()
    sure, unsure = (weighed.weight[0].argmax(), weighed.weight[0].argmin())
    values = []
    for pixel in (sure, unsure):
        depth = wrong.clone()
        depth[0].view(-1)[pixel] += 1
        values.append(loss(Predictions([], depth, torch.ones_like(depth)), weighed)['regression'])
    torch.testing.assert_close(values[0] / values[1], weighed.weight[0].max() / weighed.weight[0].min())
    with pytest.raises(ConfigError, match="weigh goes by the model's confidence"):
        PretrainedTeacher(dict(), 'x', truth='depth', weigh=True)
    encoding = torch.zeros(2, 3, 9)
    encoding[..., 6:] = 1
    with pytest.raises(ConfigError, match='its model predicts no confidence'):
        PretrainedTeacher(Ramp(encoding, 1), checkpoint(weight=[1.0]), weigh=True)(batch)


def test_a_median_by_sorting_is_the_median_of_what_counts():
    values = torch.rand(4, 9, generator=torch.Generator().manual_seed(0))
    counted = torch.ones(4, 9, dtype=torch.bool)
    counted[1, 3:], counted[2, ::2], counted[3] = False, False, False               # 9, 3, 4 and none of them
    found, wanted = median_by_sorting(values, counted), median_where(values, counted)
    torch.testing.assert_close(found, wanted, equal_nan=True, rtol=0, atol=0)
