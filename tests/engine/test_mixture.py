"""A training on two label spaces at once: exact on resume, the same in two processes, each set's share in its record."""

from __future__ import annotations

import json
import shutil

import pytest
from safetensors.torch import load_file

from jrs.config import load_config
from jrs.engine.build import build_dataset, training_loader
from jrs.errors import ConfigError
from jrs.io.weights import read_metadata
from jrs.report.identity import ABSENT, data_digest
from tests._data import ROOT, command
from tests.engine._ranks import start_ranks, wait

MIXTURE = ROOT / 'configs' / 'segvggt' / 'all24_fada_words_mixture.py'


def words(data, out, *options):
    return [MIXTURE, '--profile', 'debug', '--work-dir', out, '--cfg-options', f'data_root={data}', 'train.iterations=4',
            'train.save_every=2', 'hooks.pictures=None', 'batches.max_images=2', 'batches.views=(2, 2)', 'batches.slots=2',
            'train_dataset.weights.scannet=1', *options]


def record(out):
    return json.loads((out / 'run.json').read_text())


def largest_difference(one, other):
    first, second = (load_file(out / 'weights.safetensors') for out in (one, other))
    return max((first[name] - second[name]).abs().max().item() for name in first)


@pytest.fixture(scope='module')
def run(debug_data, tmp_path_factory):
    out = tmp_path_factory.mktemp('mixture')
    assert command('train', *words(debug_data, out)) == 0
    return out


def test_a_run_says_what_each_set_gave(run):
    sets = record(run)['sets']
    assert list(sets) == ['scannet', 'scannetpp'] and [one['share'] for one in sets.values()] == [0.5, 0.5]
    assert [one['samples'] for one in sets.values()] == [4, 4] and sets['scannet']['views'] == 8
    assert sets['scannet']['share_of_samples'] == 0.5 and sets['scannet']['scenes'] == 2
    card = read_metadata(run / 'weights.safetensors')
    assert len(card['class_names']) == 40 and card['benchmark'] == 'rooms_known + rooms'


def test_a_run_that_goes_on_sees_the_same_scenes_and_counts_them_once(run, debug_data, tmp_path):
    out = shutil.copytree(run, tmp_path / 'resumed')
    for name in ('iter_4.pth', 'weights.safetensors', 'last_checkpoint'):
        (out / name).unlink()
    (out / 'last_checkpoint').write_text(str(out / 'iter_2.pth'))
    given = words(debug_data, out)
    assert command('train', *given[:1], '--resume', *given[1:]) == 0
    assert record(out)['sets'] == record(run)['sets']
    assert (out / 'terms.jsonl').read_text() == (run / 'terms.jsonl').read_text() and largest_difference(out, run) == 0


def test_two_processes_train_the_same(run, debug_data, tmp_path):
    out = tmp_path / 'two'
    given = words(debug_data, out)
    assert wait(start_ranks(tmp_path / 'said', 'train', *given[:1], '--launcher', 'pytorch', *given[1:])) == [0, 0], \
        (tmp_path / 'said' / 'output0.txt').read_text()[-3000:]
    assert largest_difference(out, run) < 1e-5 and record(out)['sets'] == record(run)['sets']


def test_a_sampler_that_knows_no_shares_is_refused(debug_data):
    cfg = load_config(MIXTURE, 'debug', {'data_root': str(debug_data), 'plugins': ['point_clouds']})
    data = build_dataset(cfg, 'train_dataset')
    cfg.batches = dict(type='PointBatchSampler', scenes=1)
    with pytest.raises(ConfigError, match='PointBatchSampler draws scenes of one data set'):
        training_loader(cfg, data)


def test_the_identity_of_a_mixture_is_of_all_its_sets(debug_data, tmp_path):
    cfg = load_config(MIXTURE, 'debug', {'data_root': str(debug_data)})
    both = data_digest(cfg, 'train_dataset')
    cfg.train_dataset.sets.scannetpp.split = 'val'
    assert both != ABSENT and data_digest(cfg, 'train_dataset') not in (both, ABSENT)
    cfg.train_dataset.sets.scannetpp.folder = 'nowhere'
    assert data_digest(cfg, 'train_dataset') == ABSENT
