"""Several data sets at once: shares, label spaces, and an order that depends on seed and number only."""

from __future__ import annotations

from itertools import islice

import numpy as np
import pytest

from jrs.benchmarks import get_benchmark
from jrs.datasets.dataset import collate_scenes
from jrs.datasets.mixture import MixedDataset
from jrs.datasets.sampling import SampleRequest, ViewBatchSampler
from jrs.engine.data import data_line
from jrs.errors import ConfigError
from jrs.structures import UNNAMED

MIXTURE = ((6, 0.75), (30, 0.25))


def sampler(mixture=MIXTURE, **options):
    return ViewBatchSampler(**{'num_scenes': sum(size for size, _ in mixture), 'seed': 3, 'max_images': 12, 'views': (2, 6),
                               'mixture': mixture, **options})


def of_first(requests):
    return sum(request.index < MIXTURE[0][0] for request in requests)


def test_every_update_has_the_sets_in_their_shares_and_the_long_run_exactly():
    part, first, total = sampler(slots=2), 0, 0
    for number in range(300):
        requests = part.update(number)
        due = 0.75 * len(requests)
        assert due - 1 < of_first(requests) < due + 1
        others = [request.index for request in requests if request.index >= MIXTURE[0][0]]
        assert len(set(others)) == len(others)                             # of 30 scenes none comes twice
        first, total = first + of_first(requests), total + len(requests)
    assert first / total == pytest.approx(0.75, abs=0.01)
    assert {request.index for number in range(300) for request in part.update(number)} == set(range(36))
    in_place = [part.update(number)[0].index < 6 for number in range(300)]
    assert 0.65 < np.mean(in_place) < 0.85                                 # no place of an update belongs to a set


def test_shares_of_one_scene_an_update_come_about_over_many():
    part = sampler(((5, 0.9), (5, 0.1)), max_images=2, views=(2, 2))
    assert 0.06 < np.mean([part.update(number)[0].index >= 5 for number in range(500)]) < 0.14


def test_the_order_depends_on_seed_and_number_only_whoever_takes_the_slots():
    whole = sampler(slots=2)
    run = list(islice(whole, 20))
    late = sampler(slots=2)
    late.set_position(7)
    assert list(islice(late, 6)) == run[14:]
    ranks = [list(islice(sampler(slots=2, rank=rank, world_size=2), 10)) for rank in range(2)]
    assert [batch for pair in zip(*ranks, strict=True) for batch in pair] == run
    assert list(islice(sampler(slots=2, seed=4), 20)) != run


def test_what_was_drawn_is_counted_by_set():
    part = sampler(slots=2)
    requests = [request for number in range(3, 9) for request in part.update(number)]
    own = [request for request in requests if request.index < 6]
    assert part.drawn(3, 9)[0].tolist() == [len(own), sum(request.num_views for request in own)]
    assert part.drawn(3, 9).sum(axis=0).tolist() == [len(requests), sum(request.num_views for request in requests)]
    assert part.drawn(3, 5).sum() + part.drawn(5, 9).sum() == part.drawn(3, 9).sum() and not part.drawn(4, 4).any()


def mixed(data, **changes):
    common = dict(type='SceneDataset', split='train', folder='rooms/debug')
    given = dict(sets=dict(known=dict(benchmark='rooms_known', unnamed='masks'), all=dict(benchmark='rooms'), none=None),
                 weights=dict(known=3, all=1), common=common, width=84, data_root=str(data))
    return MixedDataset(**(given | changes))


def item(dataset, index):
    return dataset[SampleRequest(index, index, 3, 0.7)]


def test_a_scene_has_the_labels_of_its_set_among_the_names_of_all(debug_data):
    data = mixed(debug_data)
    known, every = get_benchmark('rooms_known').class_names, get_benchmark('rooms').class_names
    assert data.metainfo['classes'] == (*known, *(name for name in every if name not in known)) and len(data) == 4
    assert data.mixture == ((2, 0.75), (2, 0.25)) and data.metainfo['benchmark'] == 'rooms_known + rooms'
    one, other = item(data, 0), item(data, 2)
    assert one.scene_names == other.scene_names and one.classes.sum() == 30 and other.classes.all()
    names = [{data.class_names[label] for label in batch.instances[0].labels.tolist() if label != UNNAMED}
             for batch in (one, other)]
    assert names == [{'chair', 'table'}, {'chair', 'table', 'office chair'}]
    assert UNNAMED in one.instances[0].labels and UNNAMED not in other.instances[0].labels
    both = collate_scenes([one, other])
    assert both.classes.shape == (2, 40) and both.to('cpu').unpacked().classes.equal(both.classes)


def test_the_first_lines_of_a_run_say_what_the_sets_are(debug_data):
    line = data_line({'train_dataset': {'type': 'MixedDataset'}}, 'train_dataset', mixed(debug_data))
    assert 'known 75% of the samples, 2 scenes, 30 of 40 classes' in line and 'all 25% of the samples' in line


@pytest.mark.parametrize(('changes', 'words'), [
    (dict(weights=dict(known=1)), 'weights.all must be a number above 0'), (dict(weights=dict(known=1, all=0)), 'got 0'),
    (dict(weights=dict(known=1, all=1, kown=2)), "no set of that name. Did you mean 'known'"),
    (dict(sets=dict(known=None), weights={}), 'names no data set'),
    (dict(sets=dict(known=dict(benchmrk='rooms'), all=dict(benchmark='rooms'))), "no argument 'benchmrk'.*Did you mean")])
def test_a_mixture_that_cannot_be_is_refused(changes, words, debug_data):
    with pytest.raises(ConfigError, match=words):
        mixed(debug_data, **changes)


def test_a_set_that_does_not_say_its_classes_is_refused(debug_data, monkeypatch):
    from jrs.datasets.dataset import SceneDataset
    monkeypatch.setattr(SceneDataset, 'metainfo', property(lambda self: {}))
    with pytest.raises(ConfigError, match='does not say the names of its classes'):
        mixed(debug_data)
