"""Rotary positions: turned by the grid, nothing else."""

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from jrs.layers.rope import GridPeriods, GridRotation, HalfRotation, patch_positions


def test_scores_depend_only_on_the_distance_between_positions():
    torch.manual_seed(0)
    query, key = torch.randn(1, 1, 1, 16), torch.randn(1, 1, 1, 16)

    def score(at_query, at_key):
        turned_query = GridRotation(torch.tensor([at_query]), 16)(query)
        turned_key = GridRotation(torch.tensor([at_key]), 16)(key)
        return (turned_query * turned_key).sum()

    torch.testing.assert_close(score([3, 5], [1, 9]), score([7, 2], [5, 6]))
    assert not torch.isclose(score([3, 5], [1, 9]), score([5, 3], [9, 1]))


def test_position_zero_leaves_heads_unchanged():
    heads = torch.randn(2, 3, 4, 8)
    torch.testing.assert_close(GridRotation(torch.zeros(4, 2, dtype=torch.long), 8)(heads), heads, rtol=0, atol=0)


def test_rows_turn_the_first_half_and_pairs_are_half_a_half_apart():
    heads = torch.zeros(1, 1, 1, 8)
    heads[..., 0] = 1                                           # row half, fastest pair: elements 0 and 2
    turned = GridRotation(torch.tensor([[1, 100]]), 8)(heads)[0, 0, 0]
    expected = torch.zeros(8)
    expected[0], expected[2] = torch.tensor(1.0).cos(), torch.tensor(1.0).sin()
    torch.testing.assert_close(turned, expected)


def test_patches_start_at_one_behind_special_tokens_at_zero():
    positions = patch_positions((2, 3), 2, torch.device('cpu')).tolist()
    assert positions == [[0, 0], [0, 0], [1, 1], [1, 2], [1, 3], [2, 1], [2, 2], [2, 3]]


def test_half_precision_heads_stay_half_precision():
    heads = torch.randn(1, 2, 3, 8, dtype=torch.bfloat16)
    assert GridRotation(torch.ones(3, 2), 8)(heads).dtype == torch.bfloat16


def test_pairs_of_a_half_rotation_are_half_a_head_apart_and_special_tokens_stay():
    heads = torch.zeros(1, 1, 3, 8, dtype=torch.bfloat16)
    heads[..., 1] = 1                                           # elements 1 and 5
    turned = HalfRotation(torch.tensor([[9.0, 0.5, 9.0, 9.0], [9.0, -2.0, 9.0, 9.0]]), num_special=1)(heads)
    expected = torch.zeros(1, 1, 3, 8)
    expected[..., 1], expected[..., 5] = torch.tensor([0, 0.5, -2]).cos(), torch.tensor([0, 0.5, -2]).sin()
    torch.testing.assert_close(turned, expected)                                            # of float32, too


ROTATIONS = {'grid': lambda: GridRotation(patch_positions((2, 3), 1, torch.device('cpu')), 16),
             'half': lambda: GridPeriods(16)((2, 3), 1)}


@pytest.mark.parametrize('rotation', ROTATIONS)
def test_the_gradient_of_a_rotation_turns_back(rotation):
    torch.manual_seed(0)
    rotation = ROTATIONS[rotation]()
    heads, pull = torch.randn(2, 3, 7, 16, requires_grad=True), torch.randn(2, 3, 7, 16)
    turned = rotation(heads)
    back, = torch.autograd.grad(turned, heads, pull)
    torch.testing.assert_close((turned * pull).sum(), (heads * back).sum())
    torch.testing.assert_close(rotation(back), pull)
    with torch.no_grad():
        assert torch.equal(rotation(heads), turned)


@pytest.mark.parametrize('train', [False, True])
@pytest.mark.parametrize('rotation', ROTATIONS)
def test_a_rotation_makes_one_tensor_of_the_size_of_the_heads(rotation, train):
    """At 200 views each more is 0.9 GB, of queries and of keys."""
    made = {}

    class New(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            result = func(*args, **(kwargs or {}))
            made[result.untyped_storage().data_ptr()] = result
            return result
    heads = torch.randn(2, 7, 3, 16).transpose(1, 2).requires_grad_(train)                 # a view, as attention has it
    rotation = ROTATIONS[rotation]()
    with New(), torch.set_grad_enabled(train):
        turned = rotation(heads)
    made.pop(heads.untyped_storage().data_ptr(), None)
    assert [one.untyped_storage().nbytes() for one in made.values() if one.numel() >= heads.numel()] == [4 * turned.numel()]
