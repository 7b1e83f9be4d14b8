"""Published weights stand in rows of their own, labelled with file and digest, and are checked before anything runs."""

import csv
import hashlib
import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from jrs.config import load_config
from jrs.errors import ConfigError, WeightsError
from jrs.registry import MODELS, build
from jrs.report.plan import Planner, Settings, variants
from jrs.report.released import read_released
from jrs.report.results import collect
from jrs.report.runner import Runner
from jrs.report.tables import extra_row, load_tables
from jrs.report.work import RESULTS
from tests._data import ROOT, command
from tests._released import segvggt_file


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    """Files with the names of the released SegVGGT at size debug; the first one also wrapped, as a file of torch.save."""
    folder, state = tmp_path_factory.mktemp('released'), segvggt_file(198, None)
    torch.save({'model': {f'module.{name}': value for name, value in state.items()}}, folder / 'segvggt_scannet200.pt')
    for name, content in (('200', state), ('again', state), ('v2', segvggt_file(18, None))):
        save_file({key: value.clone() for key, value in content.items()}, folder / f'{name}.safetensors', {'name': name})
    return folder


@pytest.fixture(scope='module')
def plan(debug_data, folder):
    """Plan some rows, `table:part of its name` each, with weights."""
    def made(rows, *weights, more=()):
        settings = Settings(seeds=(0,), work_dirs=folder / 'runs', predictions=folder, accelerator=False, jobs=1,
                            train=False, released=read_released(word.replace('=', f'={folder}/') for word in weights),
                            variants=variants(['debug'], [f'data_root={debug_data}'], []))
        return Planner(settings).plan([*(table_of(*row.split(':')) for row in rows), *more])
    return made


def table_of(number, part):
    table = load_tables([int(number)])[0]
    table.rows = [row for row in table.rows if row.label.startswith(part)]
    return table


def released(plan):
    return [cell for cell in plan.cells if cell.released is not None]


def test_a_file_fills_every_cell_whose_weights_its_config_trains(plan):
    cells = released(plan(['2:SegVGGT', '3:row 3'], 'all24_fada=200.safetensors'))
    assert [(cell.table.id, cell.benchmark) for cell in cells] == [(2, 'scannet200'), (2, 'scannetpp'), (3, '')]
    works = [next(iter(cell.work.values())) for cell in cells]
    assert all(work.checkpoint.name == '200.safetensors' and work.training is None and not work.gaps for work in works)
    assert works[2].folder.parent.name.startswith('all24_fada_debug_weights-')


def test_rows_stand_below_what_is_trained_here_one_for_all_benchmarks_and_one_more_for_a_second_file(plan, folder):
    made = plan(['1:SegVGGT'], 'all24_fada=200.safetensors', 'all24_fada_scannetv2=v2.safetensors',
                'all24_fada=again.safetensors')
    entries = collect(made, {}, False)
    digest = hashlib.sha256((folder / 'v2.safetensors').read_bytes()).hexdigest()
    assert [entry.cells[0].partition(':')[0] for entry in entries] == [
        'SegVGGT (trained here)', 'SegVGGT (released weights', 'SegVGGT (released weights']
    assert f'v2.safetensors, sha256 {digest[:12]}; 200.safetensors, sha256 ' in entries[1].cells[0]
    assert 'again.safetensors, sha256 ' in entries[2].cells[0] and 'scannetv2' not in entries[2].cells[0]
    assert any(note.startswith('scannetv2: released weights: ') and note.endswith(f'sha256 {digest}')
               for note in entries[1].notes)


@pytest.mark.parametrize(('row', 'word', 'error', 'said'), [
    ('3:row 3', 'all24_fda=200.safetensors', ConfigError, "no row 'all24_fda'. Did you mean 'all24_fada'"),
    ('3:row 3', 'all24_fada=20.safetensors', WeightsError, "no file .*20.safetensors. Did you mean '.*200.safet"),
    ('3:row 3', 'all24_fada', ConfigError, 'must be ROW=FILE'),
    ('3:row 3', '=200.safetensors', ConfigError, 'must be ROW=FILE'),
    ('3:row 3', 'all24_fada=v2.safetensors', WeightsError, 'for .*all24_fada.py under profile .*Only the class head'),
    ('5:', 'all24_fada=200.safetensors', ConfigError, 'Table 5 takes no weights: its times'),
    ('1:Open', 'Open-YOLO=200.safetensors', ConfigError, 'takes no weights: it is filled from prediction files')])
def test_weights_that_fill_nothing_or_do_not_fit_are_refused_at_the_start(plan, row, word, error, said):
    with pytest.raises(error, match=said):
        plan([row], word)


def test_published_weights_take_the_place_of_those_that_a_row_names(plan, folder):
    cfg = load_config(ROOT / 'configs/geometry/vggt_pretrained.py', 'debug')
    torch.save(build(MODELS, dict(cfg.model, teacher=None), 'model').state_dict(), folder / 'vggt.pt')
    cells = plan(['9:VGGT'], 'vggt_pretrained=vggt.pt').cells
    assert [cell.released is not None for cell in cells] == [True] and not next(iter(cells[0].work.values())).gaps


def test_a_file_with_the_names_of_a_plugin_fills_a_row_of_its_config(plan, folder):
    config = str(ROOT / 'plugins/pi3/configs/pi3_geometry.py')
    model = build(MODELS, dict(load_config(config, 'debug').model, teacher=None), 'model')
    names = {name: name.removeprefix('backbone.').removeprefix('geometry_head.') for name in model.state_dict()}
    torch.save({names[name]: value for name, value in model.state_dict().items()}, folder / 'pi3.pt')
    table = load_tables([9])[0]
    table.rows = [extra_row(table, 'pi3_geometry', config, 'scannet200')]
    cell = released(plan([], 'pi3_geometry=pi3.pt', more=[table]))[0]
    assert not next(iter(cell.work.values())).gaps and cell.origin.startswith('released weights: pi3.pt, sha256 ')


def test_a_table_shows_the_scores_of_the_file(debug_data, folder, tmp_path, monkeypatch):
    def here(runner, work, log):
        return command(Path(work.words()[0]).stem, *work.words()[1:]), 'failed'
    monkeypatch.setattr(Runner, '_stream', here)                   # a process of its own takes seconds to start
    file = folder / 'segvggt_scannet200.pt'
    assert command(
        'reproduce', '--table', '3', '--rows', 'ROW 3', '--weights', f'row 3={file}', '--profile', 'debug', '--no-training',
        '--work-dirs', tmp_path / 'runs', '--out', tmp_path / 'out', '--cfg-options', f'data_root={debug_data}',
        'test_dataset.max_views=2', 'metrics.depth=None', 'metrics.cameras=None') == 0
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    results = json.loads(next((tmp_path / 'runs').glob(f'*weights-{digest[:8]}/test*/{RESULTS}')).read_text())
    rows = list(csv.DictReader((tmp_path / 'out/table3.csv').open()))
    assert [row['weights'] for row in rows] == ['trained here', f'released weights: {file.name}, sha256 {digest[:12]}']
    assert float(rows[1]['map25 ours']) == pytest.approx(100 * results['metrics']['instance/AP25'])
    assert digest in rows[1]['notes'] and rows[0]['notes'] == 'not run: needs a training: --no-training leaves it out'
    for name in ('report.md', 'report.html', 'table3.tex'):
        text = (tmp_path / 'out' / name).read_text().replace('\\_', '_')
        assert f'released weights: {file.name}, sha256 {digest[:12]}' in text and 'trained here' in text, name
