"""Matches of scenes in a file: what is read back scores and resamples as what was scored."""

import numpy as np
import pytest

from jrs.benchmarks import get_benchmark
from jrs.errors import DataError
from jrs.evaluation.instance_ap import assign, evaluate
from jrs.evaluation.kept import AGNOSTIC, AWARE, keep_matches, read_matches, write_matches
from tests.evaluation.test_instance_ap import random_scene

BENCHMARK = get_benchmark('scannet20')
NAMES = ['scene0', 'scene1', 'scene2']


def counted():
    scenes = [assign(*random_scene(seed), BENCHMARK) for seed in range(3)]
    once = [scene.keep_rows(np.arange(0, 25, 2)) for scene in scenes]
    return {AWARE: scenes, AGNOSTIC: once}


def test_what_is_read_back_is_what_was_scored(tmp_path):
    by_kind = counted()
    write_matches(tmp_path / 'matches.npz', keep_matches(NAMES, BENCHMARK, False, by_kind))
    found = read_matches(tmp_path / 'matches.npz')
    assert found.names == NAMES and found.benchmark.name == BENCHMARK.name and found.include_095 is False
    numbers = found.resampled(np.array([[1, 1, 1], [2, 1, 0]]))
    for kind, prefix in ((AWARE, ''), (AGNOSTIC, 'agnostic_')):
        whole, part = (evaluate([by_kind[kind][scene] for scene in drawn], BENCHMARK, kind == AGNOSTIC).means
                       for drawn in ((0, 1, 2), (0, 0, 1)))
        for name in ('AP', 'AP50', 'AP25'):
            assert numbers[f'{prefix}{name}'].tolist() == pytest.approx([whole[name], part[name]], abs=1e-12)


def test_the_file_is_small(tmp_path):
    path = tmp_path / 'matches.npz'
    write_matches(path, keep_matches(NAMES, BENCHMARK, False, counted()))
    rows = sum(len(scene.score) for scenes in counted().values() for scene in scenes)
    assert path.stat().st_size < 8000 + 20 * rows                      # of the arrays of the file alone there are 26


def test_scenes_without_objects_or_predictions_are_kept_too(tmp_path):
    ids, masks, labels, scores = random_scene(0)
    empty = [assign(np.zeros_like(ids), masks, labels, scores, BENCHMARK), assign(ids, masks[:0], labels[:0], scores[:0],
                                                                                  BENCHMARK)]
    write_matches(tmp_path / 'matches.npz', keep_matches(NAMES[:2], BENCHMARK, False, {AWARE: empty}))
    numbers = read_matches(tmp_path / 'matches.npz').resampled(np.array([[1, 1], [2, 0]]))
    assert numbers['AP25'][0] == 0 and np.isnan(numbers['AP25'][1])


def test_a_damaged_file_is_named_with_what_to_do(tmp_path):
    path = tmp_path / 'matches.npz'
    write_matches(path, keep_matches(NAMES, BENCHMARK, False, counted()))
    for text in (b'', b'no archive', path.read_bytes()[:-300]):
        path.write_bytes(text)
        with pytest.raises(DataError, match='cannot be read as matches.*score the weights again'):
            read_matches(path)
