"""The run folder's name tells experiment, scale, seed and what else was changed."""

from __future__ import annotations

import pytest

from jrs.errors import ConfigError
from jrs.report.naming import MAX_SLUG, default_work_dir
from tests._data import MAIN


@pytest.mark.parametrize(('overrides', 'behind'), [
    ([], ''), (['seed=3'], ''), (['train.iterations=500', 'seed=3'], '_train.iterations-500'),
    (['train.iterations=500', 'batches.views=(2, 4)'], '_batches.views-2-4_train.iterations-500'),
    (["optimizer.type='SGD'"], '_optimizer.type-SGD'), (['train.iterations=1', 'train.iterations=2'], '_train.iterations-2'),
    (['data_root=/a b/c'], '_data_root--ab-c')])
def test_a_run_folder_is_named_after_experiment_profile_seed_and_the_other_overrides(overrides, behind):
    assert str(default_work_dir(MAIN, 'rooms', 3, overrides)) == f'work_dirs/all24_fada_rooms_seed3{behind}'


def test_the_order_and_spelling_of_overrides_do_not_matter_and_their_values_do():
    first, second = (default_work_dir(MAIN, 'rooms', 0, words) for words in (
        ['seed=0', 'batches.views=(2,4)', 'train.clip_norm=1e-3'], ['train.clip_norm=0.001', 'batches.views=(2, 4)']))
    assert first == second
    assert default_work_dir(MAIN, 'rooms', 0, ['a.b=1']) != default_work_dir(MAIN, 'rooms', 0, ['a.b=-1'])


def test_a_long_list_of_overrides_keeps_the_name_bounded_and_distinct():
    names = {default_work_dir(MAIN, 'rooms', 0, [f'model.losses.depth.{"x" * 100}=1', f'seed={seed}', f'z={value}']).name
             for seed in (0, 1) for value in (1, 2)}
    assert len(names) == 2 and all(len(name) == len('all24_fada_rooms_seed0_') + MAX_SLUG for name in names)


def test_an_override_without_a_value_is_refused():
    with pytest.raises(ConfigError, match='a.b=value'):
        default_work_dir(MAIN, 'rooms', 0, ['train.iterations'])
