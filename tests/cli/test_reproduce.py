"""Tables from nothing to a report: planned, trained, scored, known again, and told when something fails."""

import json
import re
import shutil
import sys

import numpy as np
import pytest

from jrs.cli.reproduce import main, parser
from jrs.io.submission import write_vertex_numbers
from jrs.report import runner
from jrs.report.identity import read_identity, write_identity
from tests._data import MAIN, command

SMALL = ('train.iterations=2', 'hooks.pictures=None', 'batches.views=(2,2)', 'test_dataset.max_views=2')


@pytest.fixture(scope='module')
def place(debug_data, tmp_path_factory):
    """A folder in which the three-line config `mine` has been run for Table 4."""
    folder = tmp_path_factory.mktemp('reproduce')
    file = folder / 'mine.py'
    file.write_text(f"_base_ = {str(MAIN)!r}\nmodel = dict(queries=dict(insertion=dict(_delete_=True, type='ListedLayers', "
                    'layers=[0, 3])))\n')
    assert run(folder, debug_data) == 0
    return folder


def run(folder, data, *words):
    return command('reproduce', '--table', '4', '--configs', folder / 'mine.py', '--rows', 'mine', '--profile', 'debug',
                   '--work-dirs', folder / 'runs', '--out', folder / 'out', *words,
                   '--cfg-options', f'data_root={data}', *SMALL)


def only_run(place):
    return next(path for path in (place / 'runs').iterdir() if path.name.startswith('mine_debug_seed0') and path.is_dir())


def test_a_row_of_ones_own_appears_in_a_table_of_the_paper(place):
    text = (place / 'out/report.md').read_text()
    assert '| mine | – |' in text and '(n=1)' in text and 'tools/train.py' in text
    assert 'each update is of 2 slots of at most 4 images, at the scale of the paper of 8 slots of at most 48 images' in text
    assert {'report.html', 'table4.csv', 'table4.tex'} <= {path.name for path in (place / 'out').iterdir()}


def test_results_say_what_they_are_of(place):
    record = json.loads(next(only_run(place).glob('test*/results.json')).read_text())
    both = {'config', 'code', 'plugins', 'weights', 'data', 'seed'}
    assert record['identity'].keys() == both and read_identity(only_run(place)).keys() == both | {'update'}
    assert record['scenes'] and record['hours'] > 0 and record['peak_memory_gb'] > 0 and record['commit']


def test_a_finished_run_is_not_run_again(place, debug_data, capfd):
    before = (only_run(place) / 'run.json').stat().st_mtime_ns
    assert run(place, debug_data) == 0
    assert '[1/' not in capfd.readouterr().out and (only_run(place) / 'run.json').stat().st_mtime_ns == before


def test_a_run_by_other_code_is_listed_and_used_only_when_asked_for(place, debug_data, tmp_path, capfd):
    copy = shutil.copytree(place, tmp_path / 'copy')
    write_identity(only_run(copy), read_identity(only_run(copy)) | dict(code='older'))
    assert run(copy, debug_data, '--dry-run') == 0
    assert 'by other code' in capfd.readouterr().out
    assert run(copy, debug_data, '--any-code') == 0
    assert 'made by other code' in (copy / 'out/report.md').read_text()
    assert run(copy, debug_data, '--dry-run', '--any-code') == 0
    assert 'by other' not in capfd.readouterr().out


def test_a_failed_run_is_in_the_table_and_in_the_exit_code(place, debug_data, tmp_path, monkeypatch, capfd):
    broken = [sys.executable, '-c', "raise SystemExit('WeightsError: broken file')"]
    monkeypatch.setattr(runner, 'command_line', lambda *arguments: broken)
    assert run(place, debug_data, '--work-dirs', tmp_path / 'runs', '--out', tmp_path / 'out') == 1
    assert 'failed: train mine_debug_seed0' in (tmp_path / 'out/report.md').read_text()
    assert 'WeightsError: broken file (exit code 1;' in capfd.readouterr().err


def test_a_dry_run_of_all_tables_names_every_row_and_writes_nothing(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv('COLUMNS', '70')
    assert command('reproduce', '--table', *range(1, 10), '--dry-run', '--commands') == 0
    text = capsys.readouterr().out
    assert max(map(len, text.splitlines())) <= 70
    text = ' '.join(text.replace(' \\\n', '\n').replace('\\\n', '').split())
    for table in range(1, 10):
        assert f'Table {table}: ' in text
    assert text.count('tools/train.py') >= 12 and text.count('tools/test.py') >= 17
    assert text.count('all24_fada.py --profile paper --work-dir') == 1
    assert 'needs data/scannet; weights/VGGT-1B/model.pt' in text and 'predictions/ground_truth/<benchmark>' in text
    assert not list(tmp_path.iterdir())


def test_a_dry_run_tells_each_kind_of_gap_in_one_line_of_the_screen_s_width(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv('COLUMNS', raising=False)
    assert command('reproduce', '--table', '1', '--rows', 'SegVGGT', 'Open-YOLO', 'ODIN', '--dry-run') == 0
    lines = capsys.readouterr().out.splitlines()
    starts = [line for line in lines if re.match(r'\d+ cells? needs? ', line)]
    assert len(starts) == 4 and len(lines) <= 18 and max(map(len, lines)) <= 100
    text = ' '.join(' '.join(lines).split())
    assert re.search(r'\d+ cells need data/scannet: .*python tools/prepare.py scannet --raw DIR --out data/scannet', text)
    assert re.search(r'\d+ cells need weights/VGGT-1B/model.pt: .*huggingface.co/facebook/VGGT-1B', text)
    assert re.fullmatch(r'(\d+) cells: 0 finished, 0 can run, \1 lack something \(--commands lists them\)', lines[-1])


def test_a_dry_run_lists_what_can_run_before_what_lacks_something(debug_data, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv('COLUMNS', '200')
    assert command('reproduce', '--table', '1', '3', '--rows', 'Open-YOLO', 'row ', '--profile', 'debug', '--work-dirs',
                   tmp_path, '--predictions', tmp_path, '--dry-run', '--cfg-options', f'data_root={debug_data}', *SMALL) == 0
    text = capsys.readouterr().out
    assert text.index('3 cells can run:') < text.index('Table 3: row 1') < text.index('1 cell needs prediction files')
    assert text.count('tools/train.py') == text.count('tools/test.py') == 3 and 'Open-YOLO' not in text


def test_cells_that_lack_something_are_told_in_the_exit_code(tmp_path, capsys):
    assert command('reproduce', '--table', '1', '--rows', 'Open-YOLO', '--predictions', tmp_path, '--work-dirs', tmp_path,
                   '--out', tmp_path / 'out') == 3
    assert '1 of 1 cells are not filled' in capsys.readouterr().err
    assert 'not run: there are no prediction files' in (tmp_path / 'out/report.md').read_text()


def test_what_cannot_be_meant_is_refused(capsys, tmp_path):
    for words, said in ((['--profile', 'debug'], '--table'), (['--table', '3', '--jobs', '0'], '--jobs'),
                        (['--table', '3', '--seeds', '-1'], '--seeds'), (['--table', '12'], 'no table 12'),
                        (['--table', 'A4'], 'no table A4'),
                        (['--table', '3', '--rows', 'nothing'], 'no row'), (['--configs', 'all24_fad'], 'all24_fada'),
                        (['--table', '5', '--configs', str(MAIN)], 'Table 5')):
        assert command('reproduce', *words) == 2
        assert said in capsys.readouterr().err


def test_rows_choose_among_the_paper_s_and_keep_one_s_own(place, capsys):
    words = ['--table', '4', '--rows', 'All 24', '--configs', str(place / 'mine.py'), '--profile', 'debug', '--dry-run']
    assert main(words) == 0
    text = capsys.readouterr().out
    assert 'All 24' in text and 'mine' in text and 'Early' not in text


def test_ten_scenes_are_listed_on_demand(tmp_path, capsys):
    (tmp_path / 'val.txt').write_text('a\nb\n')
    assert main(['--scene-list', str(tmp_path / 'val_random10.txt')]) == 0
    assert (tmp_path / 'val_random10.txt').read_text() == 'a\nb\n'


@pytest.mark.parametrize(('launcher', 'asked', 'started'), [('pytorch', 8, 8), ('pytorch', 3, 2), ('none', 3, None)])
def test_a_dry_run_prints_commands_that_train_the_setting(launcher, asked, started, tmp_path, monkeypatch, capsys):
    """Eight slots at the scale of the paper: a number of processes that shares them, or one that takes them in turn."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv('COLUMNS', '1000')
    words = ('--table', '3', '--launcher', launcher, '--processes', asked, '--dry-run', '--commands')
    assert command('reproduce', *words) == 0
    shown = capsys.readouterr().out
    lines = [line for line in shown.splitlines() if 'train.py' in line]
    assert len(lines) == 3 and all((f'--nproc_per_node {started} ' in line) is (launcher == 'pytorch') for line in lines)
    assert ('2 of 3 processes: they share 8 slots of at most 48 images equally' in shown) is (started == 2)


def test_help_names_a_command_for_every_use():
    text = parser().format_help()
    assert all(word in text for word in ('--dry-run', '--vary', '--launcher slurm', '--configs my_row.py', '--any-code'))


def test_prediction_files_of_another_method_fill_its_row(tmp_path, capsys):
    truth, mine = tmp_path / 'ground_truth/scannet200', tmp_path / 'open_yolo_3d/scannet200'
    for folder in (truth, mine / 'masks'):
        folder.mkdir(parents=True)
    write_vertex_numbers(truth / 'scene.txt', np.repeat([2001, 0], 150))                 # one chair
    write_vertex_numbers(mine / 'masks/one.txt', np.repeat([1, 0], 150))
    (mine / 'scene.txt').write_text('masks/one.txt 2 0.9\n')
    words = ('reproduce', '--table', '1', '--rows', 'Open-YOLO', '--predictions', tmp_path, '--work-dirs', tmp_path / 'runs',
             '--out', tmp_path / 'out')
    assert command(*words) == 0
    assert '100.0 (n=1) | +75.3' in (tmp_path / 'out/report.md').read_text()
    capsys.readouterr()
    assert command(*words, '--dry-run') == 0
    assert 'finished: evaluate Open-YOLO 3D' in capsys.readouterr().out


def test_a_plugin_adds_a_row_and_configs_by_name(tmp_path, capsys):
    (tmp_path / 'configs').mkdir()
    (tmp_path / 'configs/theirs.py').write_text(f'_base_ = {str(MAIN)!r}\n')
    (tmp_path / 'row_source.py').write_text(
        'from jrs.plugins import hook\n\n\n@hook\ndef jrs_config_roots():\n'
        f'    return [{str(tmp_path / "configs")!r}]\n\n\n@hook\ndef jrs_table_rows(table):\n'
        f"    return [dict(name='of a plugin', config={str(tmp_path / 'configs/theirs.py')!r})] if table == 3 else []\n")
    words = ('--plugins', tmp_path / 'row_source.py', '--profile', 'debug', '--dry-run')
    assert command('reproduce', '--table', '3', '--rows', 'of a plugin', *words) == 0
    assert 'of a plugin' in capsys.readouterr().out
    assert command('reproduce', '--configs', 'theirs', *words) == 0
    assert 'configs/theirs.py' in capsys.readouterr().out.replace('\\\n', '')              # a shell joins a long word, too
