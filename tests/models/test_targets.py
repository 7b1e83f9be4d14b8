"""True instances at mask resolution."""

import pytest
import torch

from jrs.errors import DataError
from jrs.models.targets import instance_targets
from jrs.structures import InstanceTable, SceneBatch


def batch_of(ids, tables):
    scenes = len(tables)
    return SceneBatch(torch.zeros(scenes, ids.shape[1], 3, *ids.shape[-2:]), [f'scene{i}' for i in range(scenes)],
                      [[f'{view}' for view in range(ids.shape[1])]] * scenes, instance_ids=ids, instances=tables)


def table(**labels_of):
    ids = [int(name[1:]) for name in labels_of]
    return InstanceTable(torch.tensor(ids, dtype=torch.int64), torch.tensor(list(labels_of.values()), dtype=torch.int64))


def test_masks_labels_and_visibility_of_the_instances_that_are_seen():
    ids = torch.zeros(1, 3, 4, 6, dtype=torch.int64)
    ids[0, 0, :, :4], ids[0, 2, :2, :4] = 7, 7                      # 2 x 2 and 1 x 2 pixels at half resolution
    ids[0, 1, 1, 1] = 2
    target, = instance_targets(batch_of(ids, [table(i7=3, i5=1, i2=0)]), (2, 3))
    assert target.labels.tolist() == [3, 0]
    assert target.masks.shape == (2, 3, 2, 3) and target.masks.dtype == torch.bool
    assert target.masks[0, 0].tolist() == [[True, True, False]] * 2
    assert target.view_visibility.tolist() == [[pytest.approx(2 / 3), 0, pytest.approx(1 / 3)], [0, 1, 0]]
    assert target.valid is None


def test_ignored_pixels_are_not_valid_and_belong_to_nobody():
    ids = torch.tensor([[[[1, -1], [0, 1]]]])
    target, = instance_targets(batch_of(ids, [table(i1=0)]), (2, 2))
    assert target.valid.tolist() == [[[True, False], [True, True]]]
    assert target.masks.tolist() == [[[[True, False], [False, True]]]]


def test_small_instances_are_left_out_by_their_mask_pixels_over_all_views():
    ids = torch.zeros(1, 2, 4, 4, dtype=torch.int64)
    ids[0, :, :2, :2] = 1                                           # 1 mask pixel in each of 2 views
    ids[0, 0, 2:, 2:] = 2                                           # 1 mask pixel
    ids[0, 0, 0, 3] = 3                                             # seen, but at no centre of a mask pixel
    batch = batch_of(ids, [table(i1=0, i2=1, i3=2)])
    assert instance_targets(batch, (2, 2))[0].labels.tolist() == [0, 1]
    assert instance_targets(batch, (2, 2), min_pixels=2)[0].labels.tolist() == [0]


def test_a_scene_without_instances_has_no_rows():
    ids = torch.zeros(2, 1, 4, 4, dtype=torch.int64)
    ids[1] = 4
    empty, full = instance_targets(batch_of(ids, [table(i4=1), table(i4=1)]), (2, 2))
    assert empty.masks.shape == (0, 1, 2, 2) and empty.view_visibility.shape == (0, 1)
    assert full.masks.all() and full.num_views == 1


def test_views_permute_with_their_images():
    ids = torch.randint(-1, 3, (1, 4, 6, 6))
    target, = instance_targets(batch_of(ids, [table(i1=0, i2=1)]), (3, 3))
    order = [2, 0, 3, 1]
    moved, = instance_targets(batch_of(ids[:, order], [table(i1=0, i2=1)]), (3, 3))
    assert torch.equal(moved.masks, target.masks[:, order])
    torch.testing.assert_close(moved.view_visibility, target.view_visibility[:, order])


def test_data_without_instances_and_impossible_sizes_are_refused():
    batch = batch_of(torch.zeros(1, 1, 4, 4, dtype=torch.int64), [table(i1=0)])
    with pytest.raises(ValueError, match='at most as large'):
        instance_targets(batch, (8, 8))
    batch.instance_ids = None
    with pytest.raises(DataError, match='scene0 have no true instances'):
        instance_targets(batch, (2, 2))
