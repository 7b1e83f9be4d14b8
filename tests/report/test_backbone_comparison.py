"""The comparison of backbones: every one of the registry takes part or is named, runs go on, page and record are equal."""

import inspect
import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from benchmarks import backbone_table, backbones
from benchmarks.backbone_list import listed
from benchmarks.rooms import spacing
from jrs.cli import run
from jrs.config import load_config
from jrs.registry import BACKBONES
from tests._data import ROOT, command, forget_runs


@pytest.fixture(scope='module')
def rows():
    return {one.name: one for one in listed(plugins=ROOT / 'plugins')[0]}


@pytest.fixture
def called(monkeypatch):
    """The programs that a comparison runs, here in this process; names in the list fail."""
    class Called(list, backbones.Commands):
        failing = ()

        def __call__(self, script: Path, words: list[str], log: Path) -> None:
            self.append((script.stem, words))
            if script.stem in self.failing:
                raise backbones.StageError(f'{script.stem} failed')
            forget_runs()
            assert (command(script.stem, *words) if script.parent.name == 'tools' else run(spacing.main, words)) == 0

        def stop(self) -> None:
            pass
    calls = Called()
    monkeypatch.setattr(backbones, 'Commands', lambda: calls)
    monkeypatch.setattr(backbones, 'WARM', 0)
    monkeypatch.setattr(backbones, 'TIMED', 1)
    monkeypatch.setattr(backbones, 'PASSES', 1)
    return calls


def words(tmp_path, data, *more):
    return ['--only', 'VGGT', '--minutes', '1e-9', '--profile', 'debug', '--json', str(tmp_path / 'r.json'), '--work-dirs',
            str(tmp_path / 'runs'), *more, '--cfg-options', f'data_root={data}', 'test_dataset.max_views=None']


def test_the_committed_page_is_what_the_committed_record_says():
    page = backbone_table.PAGE.read_text(encoding='utf-8')
    assert page == backbone_table.page_text(page), 'run python benchmarks/backbones.py --page'


def test_every_registered_backbone_takes_part_or_is_named_as_lacking_configs(fresh, tmp_path, monkeypatch):
    before = {one.part for one in listed()[0]}
    folders = (ROOT / 'jrs', ROOT / 'plugins')                         # other tests may have registered more
    ours = {name for name in BACKBONES.names()
            if any(Path(inspect.getfile(BACKBONES.get(name))).is_relative_to(folder) for folder in folders)}
    assert before == ours and listed()[1] == []
    folder = tmp_path / 'newcomer'
    (folder / 'configs').mkdir(parents=True)
    (folder / '__init__.py').write_text(
        'from jrs.backbones.vggt import VGGT\nfrom jrs.registry import BACKBONES\n\n\n@BACKBONES.register_module()\n'
        'class Newcomer(VGGT):\n    """VGGT by another name."""\n')
    monkeypatch.setenv('JRS_PLUGIN_PATH', str(tmp_path))
    assert listed()[1] == ['Newcomer (newcomer): no configs/<name>_geometry.py with <name>_fada.py beside it']
    text = f"_base_ = {str(ROOT / 'configs/segvggt/all24_fada.py')!r}\nplugins = ['newcomer']\n" \
           "model = dict(backbone=dict(type='Newcomer'))\n"
    (folder / 'configs' / 'it_geometry.py').write_text(text)
    assert 'it_geometry: no it_fada.py beside it' in listed()[1]
    (folder / 'configs' / 'it_fada.py').write_text(text)
    found, lacking = listed()
    assert 'Newcomer' in [one.name for one in found] and lacking == []


def test_the_same_training_is_a_valid_config_of_every_backbone_and_tells_correspondence_where_patches_see_views(rows):
    args = backbones.parser().parse_args([])
    comparison = backbones.Comparison(args, {}, None, None)
    for one in rows.values():
        cfg = comparison.config(one, 'geometry', {})
        backbone = backbones.build(BACKBONES, cfg.model.backbone, 'model.backbone')
        told = [*cfg.model.pretext.matching_layers, *cfg.model.pretext.displacement_layers]
        assert told and {backbone.layer_kinds[layer] for layer in told} == {'scene'}, one.name
        assert cfg.weights is None and cfg.model.backbone.lora is None
        assert cfg.model.teacher == dict(type='GroundTruthTeacher')
        assert cfg.batches == load_config(backbones.RECIPE, 'rooms').batches
        tuned = comparison.config(one, 'fine_tuning', {})
        assert tuned.model.teacher == cfg.model.teacher and tuned.model.queries is not None
    vggt = comparison.config(rows['VGGT'], 'geometry', {}).model.pretext
    assert (vggt.matching_layers, vggt.displacement_layers) == ([2, 3], [3, 5, 7])          # the recipe's own


def test_what_is_finished_is_written_and_a_second_call_only_does_what_is_open(called, debug_data, tmp_path, capsys):
    given = words(tmp_path, debug_data)
    called.failing = ('spacing',)
    assert backbones.main(given) == 1
    assert [name for name, _ in called] == ['train', 'test', 'spacing']
    record = json.loads((tmp_path / 'r.json').read_text())
    assert [(one['stage'], one['error']) for one in record['stages']] == [('geometry', 'spacing failed')]
    assert 'failed' in '\n'.join(backbone_table.table_lines(record))

    called.failing = ()
    called.clear()
    assert backbones.main(given) == 0
    assert [name for name, _ in called] == ['spacing', 'train', 'test']                     # trained and tested already
    geometry, tuned = json.loads((tmp_path / 'r.json').read_text())['stages']
    assert geometry['updates'] == 1 and 0 < geometry['abs_rel'] and 0 < geometry['rotation_ratio']
    assert 0 <= tuned['agnostic_AP25'] <= 1 and [len(one['commands']) for one in (geometry, tuned)] == [3, 2]
    row = next(line for line in backbone_table.table_lines(json.loads((tmp_path / 'r.json').read_text()))
               if line.startswith('| VGGT |'))
    assert 'open' not in row and f'{geometry["abs_rel"]:.3f}' in row

    called.clear()
    capsys.readouterr()
    assert backbones.main([*words(tmp_path, debug_data, '--dry-run')]) == 0 and not called
    assert 'seed 0, geometry: done' in (said := capsys.readouterr().out) and 'to train: 0 CPU-minutes' in said
    other = [word if word != '1e-9' else '2e-9' for word in given]
    assert run(backbones.main, other) == 2 and 'do not belong into one table' in capsys.readouterr().err
    (tmp_path / 'r.json').write_text(json.dumps(json.loads((tmp_path / 'r.json').read_text()) | dict(stages=[])))
    folder = tmp_path / 'runs' / 'VGGT_geometry_1e-09min_seed0'
    (folder / 'run.json').write_text((folder / 'run.json').read_text().replace('seed=0', 'seed=1'))
    assert run(backbones.main, given) == 2 and 'was trained by another command' in capsys.readouterr().err


def test_a_program_that_fails_is_named_and_one_that_is_stopped_is_no_failure(tmp_path):
    commands, failing, waiting = backbones.Commands(), tmp_path / 'failing.py', tmp_path / 'waiting.py'
    failing.write_text("print('at first')\nraise SystemExit('at last')\n")
    with pytest.raises(backbones.StageError, match='failing.py ended with 1: at last'):
        commands(failing, [], tmp_path / 'failing.log')
    waiting.write_text('import time\ntime.sleep(60)\n')
    with ThreadPoolExecutor(2) as pool:
        job = pool.submit(commands, waiting, [], tmp_path / 'waiting.log')
        while not commands.running:
            assert not job.done()
        commands.stop()
        with pytest.raises(SystemExit):
            job.result(timeout=30)
    with pytest.raises(SystemExit):
        commands(waiting, [], tmp_path / 'waiting.log')


@pytest.mark.parametrize('wrong, words', [
    (['--only', 'Pi4'], "Did you mean 'Pi3'"), (['--minutes', '0'], 'one or two positive numbers'),
    (['--minutes', '1', '2', '3'], 'one or two'), (['--profile', 'paper'], 'a small one'), (['--jobs', '0'], 'at least 1')])
def test_options_that_make_no_sense_are_refused_before_anything_runs(wrong, words, capsys):
    assert run(backbones.main, [*wrong, '--dry-run']) == 2 and words in capsys.readouterr().err
