"""The backbone of plain torch trains, is scored, takes photos and passes its trial; 60 lines are enough for one."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest

from jrs.config import load_config, profile_notes
from tests._data import command
from tests.engine.test_train import SMALL

PLUGIN, ROW = (Path(__file__).with_name(name) for name in ('local_global.py', 'local_global_row.py'))


def test_a_backbone_without_a_base_class_has_at_most_60_lines():
    assert len(PLUGIN.read_text().splitlines()) <= 60 and len(ROW.read_text().splitlines()) <= 12


def test_it_trains_is_scored_and_takes_photos_without_cameras(debug_data, tmp_path, fresh, capsys):
    options = ['--profile', 'debug', '--cfg-options', f'data_root={debug_data}', 'test_dataset.max_views=2', *SMALL]
    run = tmp_path / 'run'
    assert command('train', ROW, '--work-dir', run, *options, 'train.iterations=2') == 0
    assert [json.loads(line)['loss'] > 0 for line in (run / 'terms.jsonl').read_text().splitlines()] == [True, True]
    assert command('test', ROW, run / 'weights.safetensors', *options) == 0
    results = json.loads((run / 'test/results.json').read_text())['metrics']
    assert 'instance/AP' in results and 'depth/abs_rel' in results and not any(name.startswith('camera') for name in results)
    rng = np.random.default_rng(0)
    for name in 'ab':
        cv2.imwrite(str(tmp_path / f'{name}.png'), rng.integers(0, 255, (40, 56, 3), np.uint8))
    capsys.readouterr()
    assert command('infer', tmp_path / 'a.png', tmp_path / 'b.png', '--out', tmp_path / 'out', '--checkpoint',
                   run / 'weights.safetensors') == 0
    assert 'scene.glb, colmap/ and cameras.json: the model has no camera head' in capsys.readouterr().out
    assert (tmp_path / 'out/instances.json').is_file() and not (tmp_path / 'out/cameras.json').exists()


def test_its_trial_finds_nothing_lacking(fresh, capsys):
    assert command('plugins', 'check', PLUGIN) == 0
    assert 'complete' in capsys.readouterr().out


@pytest.mark.parametrize('patch', [8, 16])
def test_images_follow_its_patches_and_a_profile_keeps_it_from_weights_of_another(fresh, patch):
    cfg = load_config(ROW, 'rooms', {'model.backbone.patch_size': patch})
    assert cfg.train_dataset.width % patch == 0 and cfg.weights is None
    assert cfg.model.teacher.model.backbone.patch_size == 14
    assert not [note for note in profile_notes(ROW, 'rooms') if 'weights:' in note]


def test_heads_that_read_what_it_does_not_leave_say_so_and_what_to_set(debug_data, tmp_path, fresh, capsys):
    text, row = PLUGIN.read_text(), ROW.read_text().replace('../..', str(ROW.parents[2]))
    (tmp_path / 'local_global.py').write_text(text.replace('in range(4))', 'in range(3))'))
    (tmp_path / 'row.py').write_text(row)
    options = ['--profile', 'debug', '--cfg-options', f'data_root={debug_data}', *SMALL, 'train.iterations=1']
    assert command('train', tmp_path / 'row.py', '--work-dir', tmp_path / 'taps', *options) == 2
    error = capsys.readouterr().err
    assert 'Head reads 4 taps, and this backbone leaves 3' in error and 'Traceback' not in error
