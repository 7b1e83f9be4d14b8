"""Weights files: what is written comes back; released names are understood; what does not fit is named."""

import os
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from jrs.config import load_config
from jrs.engine.build import FRESH, build_model
from jrs.errors import WeightsError
from jrs.io.released_keys import released_key
from jrs.io.weights import build_with_weights, compare_keys, load_weights, read_metadata, save_weights
from jrs.io.weights_file import read_tensors
from jrs.plugins import hook, manager
from tests._data import MAIN


def tiny(**overrides):
    torch.manual_seed(len(overrides))
    return build_model(load_config(MAIN, 'debug', {'model.teacher': None, **overrides}))


@pytest.fixture(scope='module')
def model():
    return tiny()


def randomised(model: nn.Module) -> nn.Module:
    torch.manual_seed(9)
    for parameter in model.parameters():
        nn.init.normal_(parameter)
    return model


def same(first: nn.Module, second: nn.Module) -> bool:
    ours, others = first.state_dict(), second.state_dict()
    return ours.keys() == others.keys() and all(ours[name].equal(others[name]) for name in ours)


def test_weights_and_their_card_come_back_as_they_were_saved(model, tmp_path):
    path = tmp_path / 'weights.safetensors'
    save_weights(model, path, dict(origin='a test', classes=['chair', 'table'], iterations=3))
    assert read_metadata(path) == dict(origin='a test', classes=['chair', 'table'], iterations=3)
    other = randomised(tiny())
    report = load_weights(other, path)
    assert same(model, other) and str(report) == f'{len(model.state_dict())} used, 0 missing, 0 left over'
    assert [file.name for file in tmp_path.iterdir()] == ['weights.safetensors']


@pytest.mark.parametrize('name', [b'\xff.safetensors', b'\xff.pt', 'w' * 243 + '.safetensors', '照 #%\n.pt'])
def test_a_file_of_any_name_is_read(tmp_path, name):
    path, state = tmp_path / os.fsdecode(name), {'part.weight': torch.arange(6.0)}
    if path.suffix == '.pt':
        torch.save(state, path)
    else:
        save_weights(state, path, {'licence': 'MIT'})
    assert read_tensors(path)['part.weight'].equal(state['part.weight'])
    assert read_metadata(path) == ({} if path.suffix == '.pt' else {'licence': 'MIT'})


@pytest.mark.parametrize('wrapping', ['model', 'state_dict', None])
def test_a_file_with_the_names_of_vggt_fills_backbone_and_geometry_heads(model, tmp_path, wrapping):
    """As facebook/VGGT-1B's `model.pt`: no queries, further heads, sometimes wrapped."""
    names = [name for name in model.state_dict() if name.startswith(('backbone.', 'camera_head.', 'depth_head.'))]
    state = {released_key(name, lora=False): torch.randn(model.state_dict()[name].shape) for name in names}
    state |= {'track_head.x.weight': torch.ones(2), 'point_head.norm.weight': torch.ones(2)}
    torch.save({wrapping: state} if wrapping else state, tmp_path / 'model.pt')
    other = tiny()
    with pytest.raises(WeightsError, match=r'does not fit the model.*Missing: .*queries'):
        load_weights(other, tmp_path / 'model.pt')
    report = load_weights(other, tmp_path / 'model.pt', fresh=FRESH)
    assert sorted(report.used) == sorted(names) and report.left_over == []
    assert all(other.state_dict()[name].equal(state[released_key(name, lora=False)]) for name in names)
    assert any(name.startswith('aggregator.frame_blocks.0.') for name in state)


def test_a_file_with_the_names_of_the_released_segvggt_fills_everything(tmp_path):
    adapted = {'model.backbone.lora': dict(rank=2, alpha=2, dropout=0.0)}
    model, other = randomised(tiny(**adapted)), tiny(**adapted)
    released = {released_key(name, lora=True): value for name, value in model.state_dict().items()}
    assert any('lora.lora_A' in name for name in released) and any(name.startswith('semantic_head.') for name in released)
    torch.save(released, tmp_path / 'segvggt.pt')
    load_weights(other, tmp_path / 'segvggt.pt')
    assert same(model, other)


def test_weights_of_another_size_are_refused_with_both_shapes(model, tmp_path):
    save_weights(model, tmp_path / 'w.safetensors', {})
    with pytest.raises(WeightsError, match=r'another size.*queries.tokens: file \(1, 12, 32\), model \(1, 13, 32\)'):
        load_weights(tiny(**{'model.queries.num_queries': 13}), tmp_path / 'w.safetensors', fresh=FRESH)


def test_weights_of_something_else_are_refused_even_where_parts_may_lack(model, tmp_path):
    save_file({'resnet.conv1.weight': torch.ones(3)}, str(tmp_path / 'w.safetensors'))
    with pytest.raises(WeightsError, match='of another model .0 used.*resnet.conv1.weight.*those of the model with queries'):
        load_weights(model, tmp_path / 'w.safetensors', fresh=FRESH)


@pytest.mark.parametrize(('change', 'said'), [
    (lambda s: {name.replace('class_head.0', 'class_heads.0'): value for name, value in s.items()},
     r'Names that are close: class_head.0.weight \(missing\) and class_heads.0.weight \(left over\)'),
    (lambda s: {name: value for name, value in s.items() if name.startswith(('backbone', 'camera', 'depth'))},
     'The file has no queries, as VGGT-1B: training starts there'),
    (lambda s: s | {'class_head.2.weight': torch.zeros(19, 32)}, 'Only the class head differs.*another benchmark'),
    (lambda s: s | {'class_head.2.weight': s['class_head.2.weight'].to(torch.int8)},
     'numbers of another kind.*quantised weights: class_head.2.weight is torch.int8')])
def test_what_does_not_fit_is_told_with_what_is_near(model, tmp_path, change, said):
    torch.save(change(dict(model.state_dict())), tmp_path / 'w.pt')
    with pytest.raises(WeightsError, match=said):
        load_weights(model, tmp_path / 'w.pt')


def test_one_part_of_several_says_that_there_is_an_index(model, tmp_path):
    torch.save({'class_head.0.weight': model.state_dict()['class_head.0.weight']}, tmp_path / 'w-00002-of-00003.bin')
    with pytest.raises(WeightsError, match=r'It is one of 3 parts: name their index, w.bin.index.json'):
        load_weights(model, tmp_path / 'w-00002-of-00003.bin')


def poison(state, **values):
    """Return a copy of a state in which the first numbers of some tensors are others."""
    state = {name: value.clone() for name, value in state.items()}
    for name, numbers in values.items():
        flat = state[name.replace('__', '.')].view(-1)
        flat[:len(numbers)] = torch.tensor(numbers, dtype=flat.dtype)
    return state


NAN, INF = float('nan'), float('inf')


@pytest.mark.parametrize(('load', 'dtype'), [
    (load_weights, torch.float32), (load_weights, torch.bfloat16),
    (lambda model, path: build_with_weights(tiny, path), torch.float16)])
def test_values_that_are_not_finite_are_refused_with_tensors_and_counts(model, tmp_path, load, dtype):
    state = {name: value.to(dtype) for name, value in model.state_dict().items()}
    torch.save(poison(state, queries__tokens=[NAN, INF, NAN], class_head__2__bias=[-INF]), tmp_path / 'w.pt')
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(WeightsError, match=r'w.pt holds broken weights: not finite: queries.tokens 3 of 384 values \(2 NaN, '
                       r'1 infinite\); class_head.2.bias 1 of 199 values \(1 infinite\); 4 values in all'):
        load(model, tmp_path / 'w.pt')
    assert all(value.equal(before[name]) for name, value in model.state_dict().items())


def test_values_too_large_for_the_model_are_refused_and_those_of_other_heads_do_not_matter(tmp_path):
    small = nn.Linear(3, 2)
    wide = {name: value.double() for name, value in small.state_dict().items()}
    torch.save(poison(wide, weight=[1e300]) | {'track_head.x': torch.full((2,), NAN)}, tmp_path / 'w.pt')
    for load in (load_weights, lambda model, path: build_with_weights(lambda: nn.Linear(3, 2), path)):
        with pytest.raises(WeightsError, match=r'not finite: weight 1 of 6 values \(1 infinite\)\. They'):
            load(small, tmp_path / 'w.pt')


def test_what_was_taken_off_and_how_it_is_stored_is_said(tmp_path, monkeypatch):
    said = []
    monkeypatch.setattr('jrs.io.weights.print_log', lambda words, *rest: said.append(words))
    source = nn.Linear(3, 2).state_dict()
    state = {f'model._orig_mod.{name}': value.bfloat16() for name, value in source.items()}
    copy = {f'model_ema.{name}': value + 1 for name, value in source.items()}
    torch.save({'state_dict': state | copy}, tmp_path / 'w.ckpt')
    load_weights(nn.Linear(3, 2), tmp_path / 'w.ckpt')
    assert 'taken off the names: state_dict., model., _orig_mod.; taken: the model itself; the file also holds ' \
        'state_dict.model_ema' in said[0] and '; stored as bfloat16 (2), held as float32' in said[1]
    other = build_with_weights(lambda: nn.Linear(3, 2), tmp_path / 'w.ckpt', copy='model_ema').state_dict()
    assert all(torch.equal(other[name], value + 1) for name, value in source.items())


def test_a_failed_load_leaves_the_model_as_it_was(tmp_path):
    model = tiny()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    state = {name: torch.zeros_like(value) for name, value in before.items()}
    state['queries.tokens'] = torch.zeros(1, 99, 32)
    torch.save(state, tmp_path / 'w.pth')
    with pytest.raises(WeightsError):
        load_weights(model, tmp_path / 'w.pth')
    assert all(value.equal(before[name]) for name, value in model.state_dict().items())


@pytest.mark.parametrize('suffix', ['.safetensors', '.pt'])
@pytest.mark.parametrize('damage', ['truncated', 'text', 'empty', 'list', 'absent'])
def test_a_damaged_file_is_named_and_not_a_traceback(model, tmp_path, suffix, damage):
    path = tmp_path / f'weights{suffix}'
    save_weights(model, path, {}) if suffix == '.safetensors' else torch.save(model.state_dict(), path)
    if damage == 'absent':
        path.unlink()
    elif damage == 'list':
        torch.save([torch.ones(2)], path)
    else:
        path.write_bytes(dict(truncated=path.read_bytes()[:3000], text=b'version https://git-lfs.github.com/spec/v1\n',
                              empty=b'')[damage])
    with pytest.raises(WeightsError, match=path.name):
        load_weights(model, path, fresh=FRESH)


def test_a_file_that_would_run_code_is_not_read(model, tmp_path):
    torch.save({'model': model, 'x': print}, tmp_path / 'w.pt')
    with pytest.raises(WeightsError, match='w.pt'):
        load_weights(model, tmp_path / 'w.pt')


def test_a_code_that_a_file_carries_is_named_and_not_run(tmp_path):
    class Runs:
        def __reduce__(self):
            return Path.touch, (tmp_path / 'ran',)
    torch.save({'weight': torch.ones(2), 'x': Runs()}, tmp_path / 'w.pt')
    with pytest.raises(WeightsError, match=r'nothing of it was executed.*GLOBAL'):
        load_weights(nn.Linear(2, 2), tmp_path / 'w.pt')
    assert not (tmp_path / 'ran').exists()


def test_new_parts_come_from_a_file_as_a_whole_or_start_fresh_as_a_whole():
    own = ['backbone.a', 'queries.tokens', 'queries.b']
    _, lacking = compare_keys(own, ['backbone.a'], fresh=['queries.*'])
    assert lacking == []
    report, lacking = compare_keys(own, ['backbone.a', 'queries.token', 'queries.b', 'track_head.x'], fresh=['queries.*'])
    assert lacking == ['queries.tokens'] and report.left_over == ['queries.token'] and report.skipped == ['track_head.x']
    assert str(report) == '2 used, 1 missing, 1 left over, 1 of track_head skipped'


def test_other_programs_metadata_are_read_as_text(tmp_path):
    save_file({'a': torch.ones(1)}, str(tmp_path / 'w.safetensors'), metadata={'format': 'pt', 'note': 'by hand', 'n': '3'})
    assert read_metadata(tmp_path / 'w.safetensors') == dict(note='by hand', n=3)


def memory(kind: str) -> int:
    return next(int(line.split()[1]) for line in Path('/proc/self/status').read_text().splitlines() if line.startswith(kind))


@pytest.mark.skipif(not Path('/proc/self/status').exists(), reason='reads /proc')
@pytest.mark.parametrize('suffix', ['.safetensors', '.pt'])
def test_a_new_model_is_the_mapped_file_and_no_copy_of_it(tmp_path, suffix):
    path, big = tmp_path / f'w{suffix}', nn.Linear(4096, 4096)                          # 64 MiB
    save_weights(big, path, {}) if suffix == '.safetensors' else torch.save(big.state_dict(), path)
    with torch.no_grad():
        before, expected = memory('RssAnon'), big.weight.sum()
        model = build_with_weights(lambda: nn.Linear(4096, 4096), path)
        assert model.weight.sum() == expected and model.weight.requires_grad
        assert memory('RssAnon') - before < 8000                                        # KiB
        model.weight.zero_()
        again = build_with_weights(lambda: nn.Linear(4096, 4096), path)
        assert again.weight.sum() == expected


class Alias:
    """A plugin whose files list a tensor under two names, and a buffer that no model has."""

    @hook
    def jrs_weight_names(self, keys):
        return {key: dict(twin='weight').get(key, None if key == 'mask.buffer' else key) for key in keys} if 'twin' in keys \
            else None


@pytest.fixture
def alias():
    manager().register(Alias(), 'alias')
    yield
    manager().unregister(name='alias')


@pytest.mark.parametrize('names', [('twin',), ('twin', 'weight')])
def test_a_tensor_may_stand_under_several_names_and_what_is_no_part_of_ours_is_dropped_and_said(alias, tmp_path, names):
    source, model = nn.Linear(3, 2), nn.Linear(3, 2)
    state = {**{name: source.weight.clone() for name in names}, 'bias': source.bias.clone(), 'mask.buffer': torch.ones(2)}
    save_file(state, tmp_path / 'w.safetensors')
    said = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr('jrs.io.weights.print_log', lambda words, *rest: said.append(words))
        report = load_weights(model, tmp_path / 'w.safetensors')
    assert torch.equal(model.weight, source.weight) and torch.equal(model.bias, source.bias)
    assert report.used == ['weight', 'bias'] and not report.left_over
    assert '1 entries of mask are known and no part of this model: dropped' in said[0]


def test_two_names_of_one_tensor_with_different_values_are_refused(alias, tmp_path):
    state = dict(twin=torch.ones(2, 3), weight=torch.zeros(2, 3), bias=torch.ones(2))
    save_file(state, tmp_path / 'w.safetensors')
    with pytest.raises(WeightsError, match='twin and weight are two names of one tensor, weight, and differ'):
        load_weights(nn.Linear(3, 2), tmp_path / 'w.safetensors')
