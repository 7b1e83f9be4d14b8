"""Which work a table needs: what is shared, what is missing, what a sweep adds."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from jrs.errors import ConfigError, DataError
from jrs.report.identity import weights_digest, write_identity
from jrs.report.plan import Planner, Settings, split_sweep, variants, write_subset
from jrs.report.tables import Row, extra_row, load_tables, sweep_table
from jrs.report.work import CUT_OFF, FINISHED, NEW, OTHER, Scoring, Submission, Timing, Training, as_typed, slug
from tests._data import MAIN


@pytest.fixture
def settings(debug_data, tmp_path):
    return Settings(seeds=(0,), work_dirs=tmp_path / 'runs', predictions=tmp_path / 'predictions', accelerator=False, jobs=1,
                    variants=variants(['debug'], [f'data_root={debug_data}'], []))


@pytest.fixture
def plan(settings):
    def made(*tables, **changes):
        return Planner(replace(settings, **changes)).plan(load_tables(tables))
    return made


@pytest.fixture(scope='module')
def whole(debug_data, tmp_path_factory):
    """The plan of all tables that train something, never run."""
    options = [f'data_root={debug_data}']
    settings = Settings(seeds=(0,), work_dirs=tmp_path_factory.mktemp('runs'), predictions=Path('none'), accelerator=False,
                        jobs=1, variants=variants(['debug'], options, []))
    return Planner(settings).plan(load_tables([2, 3, 4, 7, 8, 9]))


def trainings(plan):
    return [chain[0] for chain in plan.chains() if isinstance(chain[0], Training)]


def by_label(plan, word):
    return next(work for cell in plan.cells if word in cell.row.label for work in cell.work.values())


def finish(training):
    """Leave what a finished training leaves."""
    training.folder.mkdir(parents=True)
    training.weights.write_bytes(b'weights')
    (training.folder / 'run.json').write_text(json.dumps(dict(finished=True)))
    write_identity(training.folder, training.identity)


def test_rows_of_many_tables_share_the_trainings_that_they_have_in_common(whole):
    names = [training.folder.name.partition('_debug')[0] for training in trainings(whole)]
    assert len(names) == len(set(names)) and set(names) >= {
        'all24_fada', 'all24_fada_scannetv2', 'all24_no_fada', 'all24_fada_loss_only', 'early12_fada', 'late12_fada',
        'interleaved12_fada', 'all24_frozen', 'segvggt_geometry_only',
        *(f'vggt_mask2former_{layers}l' for layers in (6, 12, 18))}


def test_ten_scenes_and_other_benchmarks_are_further_scorings_of_one_training(whole):
    work = [work for cell in whole.cells for work in cell.work.values()
            if isinstance(work, Scoring) and work.training and work.training.folder.name == 'all24_fada_debug_seed0']
    assert {one.folder.name for one in work} == {'test', 'test_table2', 'test_table2_all24_fada_scannetpp_zeroshot',
                                                 'test_table9'}
    assert len({id(one.training) for one in work}) == 1


def test_attention_over_depth_is_a_further_scoring_of_the_trainings_of_table_3(plan):
    planned = plan(3, 'A3')
    work = [work for cell in planned.cells if cell.table.id == 'A3' for work in cell.work.values()]
    assert [one.training.folder.name for one in work] == ['all24_no_fada_debug_seed0', 'all24_fada_debug_seed0']
    assert {one.folder.name for one in work} == {'test_tableA3'} and len(trainings(planned)) == 3
    assert all('metrics.attention.type=AttentionMetric' in one.overrides for one in work)


def test_the_zero_shot_row_alone_is_planned_in_the_folder_of_its_parent(settings):
    table = sweep_table([])
    table.rows.append(extra_row(table, 'zero', str(MAIN.parent / 'all24_fada_scannetpp_zeroshot.py'), 'scannetpp'))
    assert trainings(Planner(settings).plan([table]))[0].folder.name == 'all24_fada_debug_seed0'


def test_each_seed_is_a_training_and_published_weights_are_scored_once(plan):
    planned = plan(9, seeds=(0, 1))
    assert len(trainings(planned)) == 4
    published = by_label(planned, 'VGGT pre-trained')
    assert published.training is None and 'no published weights' in published.fault


def test_a_sweep_over_what_only_scoring_reads_trains_once(settings):
    table = sweep_table([])
    table.rows.append(extra_row(table, 'one', str(MAIN), 'scannet200'))
    options = list(settings.variants[0].overrides)
    sweep = variants(['debug'], options, ['model.postprocessor.min_pixels=2,4', 'train.iterations=1,2'])
    planned = Planner(replace(settings, variants=sweep)).plan([table])
    assert len(planned.cells) == 4 and len(trainings(planned)) == 2
    assert {training.folder.name.partition('seed0')[2] for training in trainings(planned)} == {
        '_train.iterations-1', '_train.iterations-2'}
    assert len({work.folder for cell in planned.cells for work in cell.work.values()}) == 4


def test_two_configs_of_one_name_have_two_folders(settings, tmp_path):
    table = sweep_table([])
    for number in (1, 2):
        file = tmp_path / str(number) / 'mine.py'
        file.parent.mkdir()
        file.write_text(f'_base_ = {str(MAIN)!r}\ntrain = dict(warmup=0.0{number})\n')
        table.rows.append(extra_row(table, 'mine', str(file), 'scannet200'))
    assert len({training.folder for training in trainings(Planner(settings).plan([table]))}) == 2


def test_states_of_a_training(plan):
    training = trainings(plan(7))[0]
    assert training.state()[0] == NEW and '--resume' not in training.words()
    finish(training)
    assert training.state() == (FINISHED, [])
    (training.folder / 'iter_10.pth').touch()
    (training.folder / 'run.json').write_text(json.dumps(dict(finished=False)))
    assert training.state()[0] == CUT_OFF and '--resume' in training.words()
    write_identity(training.folder, training.identity | dict(code='another'))
    assert training.state() == (OTHER, ['code'])
    assert training.state(any_code=True) == (CUT_OFF, ['code'])
    write_identity(training.folder, training.identity | dict(code='another', data='another'))
    assert training.state(any_code=True)[0] == OTHER


def test_scores_of_other_weights_do_not_count(plan):
    scoring = next(work for cell in plan(7).cells for work in cell.work.values())
    finish(scoring.training)
    scoring.folder.mkdir()
    record = dict(identity=scoring.identity | dict(weights=weights_digest(scoring.checkpoint)), metrics={})
    (scoring.folder / 'results.json').write_text(json.dumps(record))
    assert scoring.state() == (FINISHED, [])
    scoring.checkpoint.write_bytes(b'other')
    assert scoring.state() == (OTHER, ['weights'])


def test_rooms_that_are_not_there_are_planned_before_everything(plan, tmp_path):
    planned = plan(9, variants=variants(['debug'], [f'data_root={tmp_path / "data"}'], []))
    first, second = planned.preparations
    assert first.words()[1:4] == ['rooms', '--preset', 'debug'] and 'val_random10.txt' in second.words()[-1]
    assert not any(chain[0].fault for chain in planned.chains() if isinstance(chain[0], Training))


def test_missing_licensed_data_and_weights_are_named(plan, tmp_path):
    planned = plan(3, variants=variants(['paper'], [f'data_root={tmp_path}', f'weights={tmp_path}/none.pt'], []))
    fault = trainings(planned)[0].fault
    assert 'train.txt' in fault and 'VGGT-1B' in fault and '\n' not in fault and not planned.preparations


def test_rows_of_other_methods_are_filled_from_prediction_files(plan, tmp_path):
    work = by_label(plan(1), 'Open-YOLO 3D')
    assert isinstance(work, Submission) and 'open_yolo_3d/scannet200' in work.fault and 'ground truth' in work.fault
    for folder in (tmp_path / 'predictions/open_yolo_3d/scannet200', tmp_path / 'predictions/ground_truth/scannet200'):
        folder.mkdir(parents=True)
        (folder / 'scene.txt').touch()
    work = by_label(plan(1), 'Open-YOLO 3D')
    assert not work.fault and '--class-agnostic' not in work.words()


def test_a_row_whose_config_is_not_written_yet_says_so(settings):
    table = load_tables([3])[0]
    table.rows = [Row(1, 'later', ('1', '', ''), {}, {'': 'configs/not_there.py'}, 'native', 'later')]
    assert 'configs/not_there.py does not exist yet' in Planner(settings).plan([table]).cells[0].work[0].fault


def test_times_come_from_a_record_that_has_the_rows(plan, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    works = {id(work): work for cell in plan(5).cells for work in cell.work.values()}
    assert len(works) == 1
    timing = next(iter(works.values()))
    assert isinstance(timing, Timing) and timing.frames == (10, 20, 50, 100, 200) and timing.state()[0] == NEW
    folder = tmp_path / 'benchmarks/results'
    folder.mkdir(parents=True)
    record = dict(config=str(MAIN), profile='debug', command=['tools/benchmark.py', '--cfg-options', *timing.overrides],
                  rows=[dict(input_frames=frames, on_noise=True) for frames in (10, 20)])
    (folder / 'table5_debug_cpu.json').write_text(json.dumps(record))
    assert timing.state()[0] == NEW
    record['rows'] = [dict(input_frames=frames, on_noise=True) for frames in timing.frames[2:]]
    (folder / 'table5_more.json').write_text(json.dumps(record))
    assert timing.state()[0] == FINISHED


def test_full_size_times_need_an_accelerator(plan):
    paper = variants(['paper'], [], [])
    assert 'accelerator' in by_label(plan(6, variants=paper), 'SegVGGT').fault
    assert not by_label(plan(6, variants=paper, accelerator=True), 'SegVGGT').fault


def test_a_mistake_in_an_override_stops_the_plan(plan):
    with pytest.raises(ConfigError, match='iteration'):
        plan(3, variants=variants(['debug'], ['train.iteratoins=3'], []))


def test_sweeps_split_at_commas_outside_brackets():
    assert split_sweep('a.b=1,2') == ('a.b', ['1', '2'])
    assert split_sweep("a=[0,3],dict(x=(1,2)),{'t': [1, 2]}") == ('a', ['[0,3]', 'dict(x=(1,2))', "{'t': [1, 2]}"])
    assert [one.name for one in variants(['rooms', 'debug'], ['c=1'], ['a=1,2'])] == [
        'rooms, a=1', 'rooms, a=2', 'debug, a=1', 'debug, a=2']
    assert [one.name for one in variants(['rooms'], ['c=1'], [])] == ['']


def test_ten_scenes_are_drawn_alike_every_time(tmp_path):
    (tmp_path / 'val.txt').write_text(''.join(f'scene{number:04d}\n' for number in range(40)))
    first = write_subset(tmp_path / 'val_random10.txt')
    (tmp_path / 'val.txt').write_text(''.join(f'scene{number:04d}\n' for number in reversed(range(40))))
    assert first == write_subset(tmp_path / 'val_random10.txt') and len(set(first)) == 10
    with pytest.raises(DataError, match='no .*test.txt'):
        write_subset(tmp_path / 'test_random10.txt')


def test_commands_are_shell_lines(plan):
    training = trainings(plan(7))[0]
    line = as_typed(['python', *training.words()])
    assert line.startswith('python tools/train.py configs/segvggt/') or Path.cwd() != MAIN.parents[2]
    assert slug('Open-YOLO 3D') == 'open_yolo_3d'
