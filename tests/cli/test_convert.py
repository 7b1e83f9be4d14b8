"""Official files become one safetensors file that says what it is; what is none is answered, and never executed."""

import json
import os
import pickle
import re

import pytest
import torch
from safetensors.torch import load_file, save_file

from jrs.cli.convert import CONFIG, Contents, expand, make_card, parser
from jrs.config import load_config
from jrs.engine.build import build_model
from jrs.engine.inference import weights_card
from jrs.io.weights import read_metadata, save_weights
from tests._data import MAIN, command
from tests._released import LORA, TRACK_HEAD, outputs, segvggt_file, toy_config, toy_model, vggt_file


def convert(source, out, *words):
    return command('convert', source, '--out', out, '--profile', 'debug', *words)


def saved(state, path):
    save_file(state, str(path)) if path.suffix == '.safetensors' else torch.save(state, path)
    return path


@pytest.mark.parametrize('wrapping', ['flat', 'model', 'state_dict', 'module', 'safetensors'])
def test_vggt_is_recognised_in_every_wrapping_and_loses_its_track_head(tmp_path, capsys, wrapping):
    state = vggt_file()
    if wrapping == 'module':
        state = {f'module.{name}': value for name, value in state.items()}
    elif wrapping in ('model', 'state_dict'):
        state = {wrapping: state, 'epoch': 3}
    source = saved(state, tmp_path / ('in.safetensors' if wrapping == 'safetensors' else 'in.pt'))
    assert convert(source, tmp_path / 'out.safetensors') == 0
    assert 'is a VGGT: with track head' in capsys.readouterr().out
    written = load_file(tmp_path / 'out.safetensors')
    assert not any(name.startswith('track_head.') for name in written) and 'point_head.norm.weight' in written
    reference = toy_model().state_dict()
    assert all(torch.equal(value, reference[name]) for name, value in written.items() if name not in TRACK_HEAD)
    assert list(tmp_path.glob('.*')) == []
    build_model(toy_config(weights=str(tmp_path / 'out.safetensors')))


@pytest.mark.parametrize(('num_classes', 'lora', 'words'), [
    (18, LORA, 'K = 18 classes, Q = 12 queries, LoRA of rank 2'),
    (198, LORA, 'K = 198 classes, Q = 12 queries, LoRA of rank 2'),
    (198, None, 'K = 198 classes, Q = 12 queries, no LoRA')])
def test_segvggt_is_recognised_with_its_classes_queries_and_rank(tmp_path, capsys, num_classes, lora, words):
    source = saved(segvggt_file(num_classes, lora), tmp_path / 'in.pt')
    assert convert(source, tmp_path / 'out.safetensors', '--lora-alpha', 4) == 0
    assert f'is a released SegVGGT: {words}' in capsys.readouterr().out
    card = read_metadata(tmp_path / 'out.safetensors')
    assert card['lora'] == (dict(rank=2, alpha=4.0) if lora else None) and card['num_classes'] == num_classes
    cfg = toy_config(**{'weights': str(tmp_path / 'out.safetensors'), 'model.backbone.lora': lora,
                        'model.num_classes': num_classes})
    reference = outputs(toy_model(**{'model.backbone.lora': lora, 'model.num_classes': num_classes}))
    assert all(torch.equal(value, reference[name]) for name, value in outputs(build_model(cfg)).items())


def test_the_card_says_origin_licence_and_source(tmp_path):
    source = saved(segvggt_file(), tmp_path / 'in.pt')
    assert convert(source, tmp_path / 'out.safetensors', '--origin', 'a friend', '--licence', 'CC0') == 0
    card = weights_card(tmp_path / 'out.safetensors')
    assert (card['origin'], card['licence'], card['trained_on']) == ('a friend', 'CC0', 'not stated')
    assert card['converted_from']['bytes'] == source.stat().st_size and len(card['converted_from']['sha256']) == 64
    assert card['converted_by'].startswith('jrs ')


@pytest.mark.parametrize(('num_classes', 'num_queries', 'rank', 'expected'), [
    (0, 0, 0, dict(origin='facebook/VGGT-1B', licence='non-commercial', trained_on='VGGT paper')),
    (18, 400, 32, dict(origin='JinyuanQu/SegVGGT', licence='non-commercial', trained_on='ScanNetv2', benchmark='scannet20')),
    (198, 400, 32, dict(origin='JinyuanQu/SegVGGT', trained_on='ScanNet200', benchmark='scannet200'))])
def test_files_of_full_size_get_the_card_of_the_official_ones(tmp_path, num_classes, num_queries, rank, expected):
    source = saved({'x': torch.ones(1)}, tmp_path / 'in.pt')
    args = parser().parse_args([str(source), '--out', str(tmp_path / 'out.safetensors')])
    card = make_card(args, Contents(True, num_classes, num_queries, rank, 0, 0, 0), load_config(CONFIG))
    assert all(value in card[name] for name, value in expected.items())
    assert card['lora'] == (dict(rank=32, alpha=32) if rank else None)


def test_our_own_files_keep_their_card(tmp_path, capsys):
    model = toy_model()
    save_weights(model, tmp_path / 'in.safetensors', dict(origin='trained by jrs', trained_on='rooms', licence='Apache-2.0'))
    assert convert(tmp_path / 'in.safetensors', tmp_path / 'out.safetensors') == 0
    assert 'is a model of jrs: K = 198 classes' in capsys.readouterr().out
    assert read_metadata(tmp_path / 'out.safetensors')['trained_on'] == 'rooms'


def test_half_the_size_in_bfloat16_loads_into_a_float32_model_and_is_said(tmp_path, capsys):
    source = saved(segvggt_file(lora=None), tmp_path / 'in.safetensors')
    assert convert(source, tmp_path / 'out.safetensors', '--dtype', 'bfloat16') == 0
    assert (tmp_path / 'out.safetensors').stat().st_size < 0.6 * source.stat().st_size
    assert convert(tmp_path / 'out.safetensors', tmp_path / 'again.safetensors') == 0
    assert '; stored as bfloat16 (' in capsys.readouterr().out
    model = build_model(toy_config(weights=str(tmp_path / 'out.safetensors')))
    for name, value in toy_model().state_dict().items():
        assert torch.equal(model.state_dict()[name], value.bfloat16().float()), name


class Bomb:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.system, (f'touch {self.path}',)


def renamed(state):
    return {name.replace('camera_token', 'camera_tokens'): value for name, value in state.items()}


def misshapen(state):
    return state | {'aggregator.camera_token': torch.zeros(1, 2, 1, 7)}


BAD = {
    'one tensor renamed': (lambda p: saved(renamed(vggt_file()), p), ['camera_token: missing', 'camera_tokens: unknown']),
    'some of the queries renamed': (
        lambda p: saved({name.replace('norm_q', 'norm_Q'): value for name, value in segvggt_file(lora=None).items()}, p),
        ['norm_q.weight: missing', 'norm_Q.weight: unknown', 'and 5 more']),
    'one of wrong shape': (lambda p: saved(misshapen(vggt_file()), p),
                           ['camera_token: (1, 2, 1, 7) instead of (1, 2, 1, 32)']),
    'truncated': (lambda p: p.write_bytes(saved(vggt_file(), p).read_bytes()[:-5000]), ['complete', 'bytes']),
    'an HTML error page': (lambda p: p.write_text('<!DOCTYPE html><html>404</html>'), ['web page', '<!DOCTYPE']),
    'a pickle with code': (lambda p: p.write_bytes(pickle.dumps({'model': Bomb(p.parent / 'executed')})),
                           ['bare pickle', 'not read']),
    'a torch file with code': (lambda p: torch.save({'model': vggt_file(), 'x': Bomb(p.parent / 'executed')}, p),
                               ['other than tensors', 'nothing of it was executed', 'system']),
    'factors cut out': (lambda p: saved({name: value for name, value in segvggt_file().items() if '.lora.' not in name}, p),
                        ['was cut', 'lora_A']),
    'something else': (lambda p: saved({'resnet.conv.weight': torch.ones(2)}, p), ['none of the files that are known']),
    'an empty file': (lambda p: p.write_bytes(b''), ['is empty']),
    'no file': (lambda p: None, ['no weights file']),
}


@pytest.mark.parametrize('case', BAD)
@pytest.mark.parametrize('reader', ['convert', 'train'])
def test_bad_files_are_answered_and_nothing_is_executed_or_written(tmp_path, capsys, reader, case, debug_data):
    make, expected = BAD[case]
    path = tmp_path / 'model.pt'
    make(path)
    if reader == 'convert':
        code = convert(path, tmp_path / 'out.safetensors')
    else:
        code = command('train', MAIN, '--profile', 'debug', '--work-dir', tmp_path / 'run', '--cfg-options',
                       f'data_root={debug_data}', f'weights={path}')
    answer = capsys.readouterr().err
    assert code == 2 and 'Traceback' not in answer and 'model.pt' in answer, answer
    if reader == 'convert':
        assert not [words for words in expected if words not in answer], answer
    assert not (tmp_path / 'executed').exists() and not list(tmp_path.glob('*.safetensors'))


def test_the_bomb_would_go_off(tmp_path):
    (tmp_path / 'bomb').write_bytes(pickle.dumps(Bomb(tmp_path / 'executed')))
    pickle.loads((tmp_path / 'bomb').read_bytes())
    assert (tmp_path / 'executed').exists()


def write_key_list(path, change=lambda lines: lines, lora=LORA):
    lines = [f'{name} {tuple(value.shape)}' for name, value in segvggt_file(lora=lora).items()]
    lines = [line + ' | 18-class: (19,)' if 'output_instance.2.bias' in line else line for line in lines]
    path.write_text('\n'.join(change(lines)) + '\n')
    return path


@pytest.mark.parametrize(('change', 'code', 'words'), [
    (lambda lines: lines, 0, '0 missing in the list'),
    (lambda lines: [line for line in lines if 'instance' not in line and 'semantic' not in line], 0, 'start fresh'),
    (lambda lines: lines[1:], 1, '1 missing in the list: backbone.camera_token'),
    (lambda lines: [*lines, 'aggregator.more (3,)'], 1, '1 unknown to the model: backbone.more'),
    (lambda lines: [*lines, 'track_head.x (3,)'], 0, '1 skipped'),
    (lambda lines: [line.replace('(1, 12, 32)', '(1, 13, 32)') for line in lines], 1,
     '1 of another shape: queries.tokens: list (1, 13, 32), model (1, 12, 32)'),
    (lambda lines: ['other.key (3,)'], 1, '0 agree'),
    (lambda lines: ['no shape here'], 2, 'line 1'),
])
def test_a_model_is_compared_with_a_key_list_without_weights(tmp_path, capsys, monkeypatch, change, code, words):
    monkeypatch.setattr('jrs.io.weights.read_state', None)
    listed = write_key_list(tmp_path / 'keys.txt', change)
    for num_classes in (198, 18) if code == 0 and words.startswith('0') else (198,):
        options = json.dumps(LORA).replace(' ', '')
        found = command('convert', '--keys', listed, MAIN, '--profile', 'debug', '--cfg-options',
                        f'model.backbone.lora={options}', f'model.num_classes={num_classes}')
        said = capsys.readouterr()
        if num_classes == 198:
            assert found == code and words in said.out + said.err, said


def test_a_pattern_stands_for_every_combination_of_its_numbers():
    assert expand('a.b') == ['a.b']
    assert expand('a.{0..2}.b.{1,3}.c') == [f'a.{first}.b.{second}.c' for first in (0, 1, 2) for second in (1, 3)]


def test_a_key_list_may_have_patterns_and_brackets(tmp_path, capsys):
    def collapsed(lines):
        names = [line for line in lines if '.frame_blocks.' not in line]
        first = [line.replace('frame_blocks.0.', 'frame_blocks.{0..3}.') for line in lines if '.frame_blocks.0.' in line]
        return ['# a comment', *(re.sub(r'\((.*?),?\)', r' [\1]', line) for line in [*names, *first])]
    listed = write_key_list(tmp_path / 'keys.txt', collapsed, lora=None)
    assert command('convert', '--keys', listed, MAIN, '--profile', 'debug') == 0
    printed = capsys.readouterr().out
    assert f'{len(toy_model().state_dict())} agree in name and shape' in printed and '0 missing in the list' in printed


def test_options_that_do_not_fit_are_answered(tmp_path, capsys):
    assert command('convert') == 2 and '--keys' in capsys.readouterr().err
    assert command('convert', 'x.pt', '--out', 'y.pt') == 2 and '.safetensors' in capsys.readouterr().err
    assert command('convert', '--keys', tmp_path / 'gone.txt', MAIN) == 2 and 'gone.txt' in capsys.readouterr().err
    save_weights(toy_model(**{'model.backbone.lora': LORA}), tmp_path / 'ours.safetensors', {})
    assert convert(tmp_path / 'ours.safetensors', tmp_path / 'out.safetensors', '--merge-lora') == 2
    assert '--lora-alpha' in capsys.readouterr().err
