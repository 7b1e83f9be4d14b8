"""What makes a run another run, and what does not."""

import json

import pytest

from jrs.config import load_config
from jrs.plugins import load_plugins
from jrs.report import identity
from jrs.report.identity import (
    ABSENT,
    code_digest,
    file_digest,
    other_parts,
    plugins_digest,
    read_identity,
    scoring_identity,
    training_identity,
    write_identity,
)
from tests._data import MAIN, ROOT


def config(data='nowhere', **overrides):
    return load_config(MAIN, 'debug', {'data_root': str(data)} | {key.replace('__', '.'): value
                                                                  for key, value in overrides.items()})


@pytest.mark.parametrize(('path', 'value', 'training', 'scoring'), [
    ('train.iterations', 7, True, False), ('model.weights.fada', 0.1, True, False), ('batches.views', (2, 3), True, False),
    ('model.backbone.embed_dim', 64, True, True), ('model.postprocessor.min_pixels', 9, False, True),
    ('test_dataset.max_views', 3, False, True), ('metrics.depth', None, False, True), ('train.log_every', 7, False, False),
    ('train.save_every', 7, False, False), ('data_root', 'elsewhere', False, False),
    ('experiment.trained_on', 'x', False, False), ('hooks.pictures.interval', 3, False, False)])
def test_training_and_scoring_are_known_by_what_each_reads(path, value, training, scoring):
    plain, changed = config(), config(**{path.replace('.', '__'): value})
    assert (other_parts(training_identity(plain), training_identity(changed)) == ['config']) is training
    assert (other_parts(scoring_identity(plain, None), scoring_identity(changed, None)) == ['config']) is scoring


def test_a_list_and_a_tuple_of_the_same_values_are_the_same_setting():
    assert training_identity(config(batches__views=[2, 3])) == training_identity(config(batches__views=(2, 3)))


def test_the_seed_makes_another_run():
    assert other_parts(training_identity(config()), training_identity(config(seed=1))) == ['seed']


def test_weights_are_known_by_their_contents_wherever_they_lie(tmp_path):
    for name, content in (('a', b'1'), ('b', b'1'), ('c', b'2')):
        (tmp_path / name).write_bytes(content)
    first, same, other = (scoring_identity(config(), tmp_path / name) for name in 'abc')
    assert first == same and other_parts(first, other) == ['weights']


def test_weights_in_parts_are_known_by_their_parts_and_a_copy_by_its_name(tmp_path):
    index, part = tmp_path / 'w.safetensors.index.json', tmp_path / 'w-00001-of-00001.safetensors'
    index.write_text('{"weight_map": {"a": "w-00001-of-00001.safetensors"}}')
    part.write_bytes(b'one')
    before = identity.weights_digest(index)
    part.write_bytes(b'two')
    assert identity.weights_digest(index) != before and identity.weights_digest(part) != identity.weights_digest(index)
    cfg = load_config(MAIN, 'debug')
    own, copy = (scoring_identity(cfg, part, name)['weights'] for name in (None, 'ema'))
    assert copy == f'{own} ema'


def test_a_large_file_is_read_again_only_when_its_size_or_time_changes(tmp_path, monkeypatch):
    monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path / 'cache'))
    monkeypatch.setattr(identity, 'WHOLE_FILE', 3)
    path = tmp_path / 'weights'
    path.write_bytes(b'12345')
    before = file_digest(path)
    monkeypatch.setattr(identity, '_sha256', lambda path: 'read again')
    assert file_digest(path) == before
    path.write_bytes(b'123456')
    assert file_digest(path) == 'read again'


def test_data_are_known_by_marks_scenes_and_sizes(debug_data, tmp_path):
    import shutil
    mine = shutil.copytree(debug_data, tmp_path / 'data')
    before = training_identity(config(debug_data))
    assert training_identity(config(mine)) == before
    (mine / 'rooms' / 'debug' / 'rooms.json').write_text(json.dumps({'generator_version': 99}))
    assert other_parts(before, training_identity(config(mine))) == ['data']


def test_data_that_are_not_here_do_not_make_a_finished_run_another(debug_data):
    assert training_identity(config())['data'] == ABSENT
    assert other_parts(training_identity(config(debug_data)), training_identity(config())) == []


def test_code_counts_where_it_can_change_numbers(tmp_path):
    for name in ('heads/depth.py', 'cli/train.py', 'labels/classes.tsv'):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text('1')
    before = code_digest(('cli',), tmp_path)
    (tmp_path / 'cli/train.py').write_text('2')
    assert code_digest(('cli',), tmp_path) == before
    (tmp_path / 'labels/classes.tsv').write_text('2')
    assert code_digest(('cli',), tmp_path) != before


def test_scoring_code_makes_no_other_training():
    assert training_identity(config())['code'] != scoring_identity(config(), None)['code']


def test_a_plugin_counts_with_its_sources(tmp_path):
    folder = tmp_path / 'counted_plugin'
    folder.mkdir()
    (folder / '__init__.py').write_text('')
    load_plugins([str(folder)])
    before = plugins_digest([str(folder)])
    (folder / 'part.py').write_text('x = 1')
    assert plugins_digest([str(folder)]) != before


def test_a_run_that_goes_on_with_other_code_is_of_neither(tmp_path):
    first = dict(config='a', code='1', seed=0)
    write_identity(tmp_path, first)
    assert other_parts(read_identity(tmp_path), first) == []
    write_identity(tmp_path, first, resume=True)
    assert read_identity(tmp_path) == first
    write_identity(tmp_path, first | dict(code='2'), resume=True)
    for one in (first, first | dict(code='2')):
        assert other_parts(read_identity(tmp_path), one) == ['code']


def test_a_folder_without_a_record_is_of_another_run(tmp_path):
    assert other_parts(read_identity(tmp_path), dict(config='a', seed=0)) == ['config', 'seed']


def test_the_zero_shot_row_trains_nothing_of_its_own():
    zero_shot = load_config(ROOT / 'configs/segvggt/all24_fada_scannetpp_zeroshot.py', 'debug', {'data_root': 'nowhere'})
    assert training_identity(zero_shot) == training_identity(config())
    assert scoring_identity(zero_shot, None) != scoring_identity(config(), None)


@pytest.mark.parametrize(('changes', 'others'), [
    ({'train__accumulate': 2}, []), ({'train__accumulate': 1}, []),          # one process x 2, two x 1
    ({'batches__slots': 4}, ['update']), ({'batches__slots': 1}, ['update']), ({'batches__max_images': 6}, ['update']),
    ({'batches__max_scenes': 1}, ['config'])])
def test_another_update_makes_another_training_and_another_split_of_it_does_not(changes, others):
    """Processes are not in a config: two processes that take a slot each have the identity of one that takes two."""
    assert other_parts(training_identity(config()), training_identity(config(**changes))) == others
    assert scoring_identity(config(), None) == scoring_identity(config(**changes), None)
