"""What tools/benchmark.py measures is what users run; its records say on what, and fill Tables 5 and 6."""

import json
import re

import pytest
import torch

from jrs.cli.benchmark import main
from jrs.config import load_config
from jrs.engine import benchmark, inference
from jrs.engine.benchmark import as_trained, noise_batch, noise_photos, timed_pass
from jrs.engine.inference import Reconstructor
from jrs.errors import ConfigError, DataError
from tests._data import MAIN, command

SMALL = ['--profile', 'debug', '--device', 'cpu']
CPU = torch.device('cpu')


@pytest.fixture
def run(tmp_path):
    def result(*words):
        main([*map(str, words), *SMALL, '--json', str(tmp_path / 'result.json')])
        return json.loads((tmp_path / 'result.json').read_text())
    return result


@pytest.fixture
def unprofiled(monkeypatch):
    monkeypatch.setattr(benchmark, 'kernels_used', lambda run: (run(), dict(flash=3))[1])             # 2.5 s a look


def test_table_5_splits_the_time_of_a_pass_and_says_how_and_on_what_it_was_measured(run, capsys):
    row, = run('--table', '5', '--views', '10')['rows']
    ours, paper = row['ours'], row['paper']
    assert ours['total_s'] == pytest.approx(ours['aggregator_s'] + ours['heads_s'] + ours['postprocess_s'], rel=1e-6)
    assert min(ours.values()) > 0 and row['on_noise'] and row['measured_on'] == 'noise, untrained weights'
    assert sum(row['kernels'].values()) > 0 and row['instances'] > 0 and row['input_frames'] == 10
    assert paper['total_s'] == 1.17 and paper['memory_gb'] == 7.04 and paper['aggregator_s'] == 0.42
    said = capsys.readouterr().out
    for words in ('convolution tf32, matmul ieee', 'nothing compiled', 'attention by flash x', 'on noise, untrained'):
        assert words in said


def test_a_pass_is_that_of_the_inference_command_and_ends_with_instances_in_space(monkeypatch):
    tracked = []
    reconstruct = Reconstructor(MAIN, 'untrained', 'debug', 'cpu', keep_all=True)
    forward = reconstruct.model.forward_images
    monkeypatch.setattr(reconstruct.model, 'forward_images', lambda images, track_views, *rest: (
        tracked.append(track_views), forward(images, track_views, *rest))[1])
    photos = noise_photos(2, (42, 56))
    found = timed_pass(reconstruct, photos)
    assert tracked == [True] and found.scene.reconstruction.view_attention is not None
    assert len(found.cloud.points) == len(found.cloud.instances) > 0 and found.cloud.instances.max() > 0
    assert torch.equal(found.scene.instances.scores, reconstruct(photos).instances.scores)


def test_a_scene_with_weights_is_not_called_noise(run, tmp_path, debug_data, unprofiled):
    model = inference.load_model(load_config(MAIN, 'debug'), 'untrained')
    torch.save(model.state_dict(), tmp_path / 'w.pth')
    scene = next(path for path in sorted(debug_data.rglob('scene.json'))).parent
    row = run('--table', '5', '--views', '3', '--scene', scene, '--checkpoint', tmp_path / 'w.pth')['rows'][0]
    assert row['measured_on'] == f'{scene}, {tmp_path / "w.pth"}' and not row['on_noise'] and row['input_frames'] == 3
    with pytest.raises(DataError, match='has .* views, and 999 are to be measured'):
        run('--table', '5', '--views', '2', '999', '--scene', scene)


def test_methods_of_the_paper_are_listed_below_ours(run, capsys, unprofiled):
    row = run('--table', '6', '--views', '2', '--config', 'configs/baselines/vggt_mask2former_6l.py')['rows'][0]
    numbers = 'inference_s 9.25  postprocess_s 6.65  total_s 15.9  memory_gb 27.67'
    assert re.search(f'paper  SegVGGT +{numbers}\n', capsys.readouterr().out) and row['paper'] is None


def test_an_update_is_that_of_a_training(monkeypatch):
    """Teacher, clipping, groups and packed batches of the config, through the step of the engine."""
    cfg = load_config(MAIN, 'debug', {'train.clip_norm': 0.5, 'train.clip_by': 'modules', 'train.decay_vectors': False})
    trained = as_trained(cfg, CPU)
    seen = []
    monkeypatch.setattr(benchmark, 'training_step', lambda *given: seen.append(given))
    batch = noise_batch(2, (42, 56), 2)
    trained.update(batch)
    assert seen == [(trained.model, [batch], trained.optimizer)]
    assert batch.images.dtype == torch.uint8 and batch.instance_ids.dtype == torch.int16
    assert trained.optimizer.clip_norm == 0.5 and set(trained.optimizer.parts.values()) >= {'backbone', 'queries'}
    names = {group['name'] for group in trained.optimizer.optimizer.param_groups}
    assert names == {'new', 'new_vectors', 'pretrained', 'pretrained_vectors'}
    assert trained.teacher == type(trained.model.teacher).__name__ and trained.recomputation.startswith('as configured')


def test_a_teacher_without_its_file_has_fresh_weights_and_that_is_said():
    student = load_config(MAIN, 'debug')
    geometry = {name: student.model[name] for name in ('backbone', 'camera_head', 'depth_head')}
    teacher = dict(_delete_=True, type='PretrainedTeacher', checkpoint='none.pt', model=dict(type='SegVGGT', **geometry))
    trained = as_trained(load_config(MAIN, 'debug', {'model.teacher': teacher}), CPU)
    assert trained.teacher == 'PretrainedTeacher, fresh weights: there is no none.pt'
    before = {name: value.clone() for name, value in trained.model.camera_head.named_parameters()}
    trained.update(noise_batch(2, (42, 56)))
    assert any(not value.equal(before[name]) for name, value in trained.model.camera_head.named_parameters())


def test_alignment_is_compared_with_the_same_update_without_it(run):
    row = run('--fada', '--views', '2', '--scenes', '1', '--steps', '2')['rows'][0]
    assert row['off']['ratio'] == 1.0 and row['on']['ratio'] > 0.5
    assert row['memory_on']['memory_gb'] > 0


def test_training_reports_time_and_memory(run):
    row = run('--train', '--views', '2', '--steps', '1')['rows'][0]
    assert row['step']['step_s'] > 0 and row['step']['memory_gb'] > 0
    assert row['scenes'] == load_config(MAIN, 'debug').batches.max_images // 2


@pytest.mark.parametrize(('words', 'said'), [
    (('--train', '--scene', '.'), '--scene: what an update takes does not depend on content'),
    (('--table', '5', '--scenes', '2'), '--scenes is of an update'),
    (('--table', '5', '--scene', '.', '--size', '42', '56'), '--size is of noise'),
    (('--table', '6', '--config', 'configs/baselines/mask3d.py', '--views', '2'), 'PointSegmenter has no backbone')])
def test_what_does_not_go_together_is_refused(run, words, said):
    with pytest.raises(ConfigError, match=said):
        run(*words)


def test_tables_5_and_6_are_filled_with_what_was_measured(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for table, frames in ((5, (10, 20, 50, 100, 200)), (6, (100,))):
        rows = [dict(input_frames=count, measured_on='noise, untrained weights', on_noise=True, kernels=dict(flash=3), ours={
            name: 1.25 for name in ('aggregator_s', 'heads_s', 'inference_s', 'postprocess_s', 'total_s', 'memory_gb')})
            for count in frames]
        settings = dict(precision=dict(convolution='tf32', matmul='ieee'), attention_kernels='cudnn > flash', compile=False)
        record = dict(command=[], config='all24_fada.py', profile='debug', device='NVIDIA H200', device_settings=settings,
                      threads=1, torch='2.13', commit='abc', dirty=False, rows=rows)
        (tmp_path / 'benchmarks/results').mkdir(parents=True, exist_ok=True)
        (tmp_path / f'benchmarks/results/table{table}_all24_fada_debug.json').write_text(json.dumps(record))
        real = dict(record, rows=[dict(row, on_noise=False, measured_on='kitchen, w.pt', ours=dict(row['ours'], total_s=2.5))
                                  for row in rows])
        (tmp_path / f'benchmarks/results/table{table}_all24_fada_debug_kitchen.json').write_text(json.dumps(
            real if table == 6 else dict(real, profile='rooms')))
    words = ('reproduce', '--table', 5, 6, '--rows', 'input frames', 'SegVGGT', '--profile', 'debug', '--out', 'out')
    assert command(*words) == 0
    text = (tmp_path / 'out/report.md').read_text()
    assert '| 10 | 0.42 | 1.25 (n=1) | +0.83 |' in text and '| SegVGGT | 9.25 | 1.25 (n=1) | -8.00 |' in text
    assert '2.50 (n=1)' in text                                       # real content goes first
    assert 'measured on noise, untrained weights: how long clustering' in text and 'measured on kitchen, w.pt |' in text
    assert 'attention: cudnn > flash; nothing compiled' in text and 'attention by: flash x 3' in text
