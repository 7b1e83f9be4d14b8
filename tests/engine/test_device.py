"""How an accelerator computes: said in one place of the config, applied by all commands, written to records."""

import json
from dataclasses import dataclass

import pytest
import torch
from torch.nn import functional as F

from jrs.config import load_config
from jrs.engine import recomputation
from jrs.engine.build import build_model
from jrs.engine.device import compile_blocks, device_record, prepare_device
from jrs.engine.memory import training_memory
from jrs.engine.recomputation import LEVELS, current_level, fit_recomputation
from jrs.errors import ConfigError
from jrs.layers.block import Block
from jrs.layers.cross_attention import CrossBlock
from jrs.layers.dpt import ResidualConvUnit
from jrs.layers.kernels import choose_kernels, free_choice, kernels_used, naming_kernels
from jrs.layers.rope import GridRotation, patch_positions
from jrs.registry import BACKBONES, MODELS, build
from jrs.report.identity import other_parts, scoring_identity, training_identity
from tests._data import MAIN, ROOT, command
from tests.test_registered import BACKBONE

CARD = torch.device('cuda')
CPU = torch.device('cpu')


@pytest.fixture
def as_before():
    """Leave the settings of this process as they were."""
    was = torch.backends.cudnn.conv.fp32_precision, torch.backends.cuda.matmul.fp32_precision
    yield
    torch.backends.cudnn.conv.fp32_precision, torch.backends.cuda.matmul.fp32_precision = was
    free_choice()


def config(**overrides):
    return load_config(MAIN, 'debug', {key.replace('__', '.'): value for key, value in overrides.items()})


def test_precision_is_set_as_the_config_says_and_the_record_names_it(as_before):
    cfg = config(device__precision__convolution='ieee', device__precision__matmul='tf32')
    build_model(cfg)
    assert torch.backends.cudnn.conv.fp32_precision == 'ieee' and torch.backends.cuda.matmul.fp32_precision == 'tf32'
    assert device_record(cfg)['precision'] == dict(convolution='ieee', matmul='tf32')
    prepare_device({}, torch.nn.Identity())                                     # an older run's config says nothing
    assert torch.backends.cudnn.conv.fp32_precision == 'tf32' and torch.backends.cuda.matmul.fp32_precision == 'ieee'


@pytest.mark.parametrize(('path', 'value', 'message'), [
    ('device.precision.matmul', 'fp16', "must be one of 'ieee', 'tf32', got 'fp16'"),
    ('device.attention_kernels', ['flesh'], "no kernel 'flesh'. Did you mean 'flash'"),
    ('device.attention_kernels', [], 'must be a list out of cudnn, flash, efficient, math'),
    ('device.compile', 'yes', "must be True or False, got 'yes'"),
    ('device.recomputation', 'all', "must be one of 'fitting', 'as_configured'"),
    ('device.speed', 2, "device.speed does not exist|no key 'speed'|unknown key 'speed'|speed")])
def test_what_the_section_does_not_know_is_refused(path, value, message):
    with pytest.raises(ConfigError, match=message):
        load_config(MAIN, 'debug', {path: value})


def test_only_another_precision_makes_another_run():
    plain = config()
    for changed, differs in ((dict(device__compile=True), False), (dict(device__recomputation='as_configured'), False),
                             (dict(device__attention_kernels=['flash']), False),
                             (dict(device__precision__matmul='tf32'), True)):
        other = config(**changed)
        assert other_parts(training_identity(plain), training_identity(other)) == ['config'] * differs
        assert other_parts(scoring_identity(plain, None), scoring_identity(other, None)) == ['config'] * differs
    silent = {name: value for name, value in plain.items() if name != 'device'}
    assert training_identity(silent) == training_identity(plain)                # runs of before are found again


@pytest.mark.filterwarnings('ignore:.*[Ff]lash.*')
def test_attention_that_no_chosen_kernel_can_do_is_an_error_not_a_silent_detour(as_before):
    """On a CPU 'flash' cannot have values wider than keys, and would fall to 'math'."""
    narrow, wide = torch.rand(1, 2, 5, 8), torch.rand(1, 2, 5, 16)

    def both():
        F.scaled_dot_product_attention(narrow, narrow, narrow)
        F.scaled_dot_product_attention(narrow, narrow, wide)
    assert kernels_used(both) == dict(flash=1, math=1)
    choose_kernels(['cudnn', 'flash', 'efficient'])
    assert kernels_used(lambda: F.scaled_dot_product_attention(narrow, narrow, narrow)) == dict(flash=1)
    with pytest.raises(ConfigError, match='no kernel of device.attention_kernels'), naming_kernels():
        both()
    choose_kernels(['flash', 'math'])
    both()
    with pytest.raises(RuntimeError, match='other'), naming_kernels():
        raise RuntimeError('other')


def test_the_benchmark_names_kernels_precision_and_compilation(tmp_path, as_before):
    record = tmp_path / 'record.json'
    assert command('benchmark', '--table', 5, '--profile', 'debug', '--views', 2, '--size', 42, 56, '--device', 'cpu',
                   '--json', record) == 0
    found = json.loads(record.read_text())
    assert found['device_settings'] == device_record(config()) and found['device_settings']['compile'] is False
    assert found['rows'][0]['kernels'] == dict(flash=16)                # of backbone, queries among them, cameras


@pytest.mark.parametrize('train', [False, True])
def test_blocks_are_captured_whole_and_give_the_same_numbers(train):
    torch.manual_seed(0)
    block, cross, unit = Block(16, 2, qk_norm=True), CrossBlock(16, 2), ResidualConvUnit(4)
    rope = GridRotation(patch_positions((2, 3), 1, CPU), 8)
    tokens, maps = torch.rand(2, 7, 16), torch.rand(2, 4, 5, 6)
    views = torch.arange(7) % 2

    def run(block=block, cross=cross, unit=unit):
        with torch.set_grad_enabled(train):
            queries, attention = cross(tokens[:, :3], tokens, views, 2)
            return block(tokens, rope), cross(tokens[:, :3], tokens)[0], queries, attention, unit(maps)
    expected = run()
    names = set(block.state_dict())
    holder = torch.nn.ModuleList([block, cross, unit]).train(train)
    assert compile_blocks(holder, 'eager') == 3 and set(block.state_dict()) == names
    for found, wanted in zip(run(), expected, strict=True):
        torch.testing.assert_close(found, wanted)


def test_a_part_may_be_called_in_more_ways_than_torch_compiles_by_default():
    """All blocks share one forward, of which torch compiles 8 kinds of calls by default and fails at the ninth: those of the
    encoder, the backbone, the queries and the camera head, each with gradients and, in the teacher, without, are more."""
    units = torch.nn.ModuleList([ResidualConvUnit(width) for width in range(1, 11)])
    maps = [torch.rand(1, width, 2, 3) for width in range(1, 11)]
    plain = [unit(given) for unit, given in zip(units, maps, strict=True)]
    assert compile_blocks(units, 'eager') == 10
    for unit, given, wanted in zip(units, maps, plain, strict=True):
        torch.testing.assert_close(unit(given), wanted)


def test_compiled_blocks_are_computed_again_like_others():
    """Beside the outputs of attention, which are kept."""
    torch.manual_seed(0)
    options = dict(depth=1, feature_layers=(0,), activation_checkpointing='attention')
    backbone = build(BACKBONES, BACKBONE | options, 'backbone')
    images = torch.rand(1, 2, 3, 28, 28)

    def taps_and_gradients():
        list(backbone.layers(images))
        tap = backbone.features().taps[0]
        backbone.zero_grad()
        tap.square().sum().backward()
        return [tap.detach(), *(value.grad.clone() for value in backbone.parameters() if value.requires_grad)]
    plain = taps_and_gradients()
    assert compile_blocks(backbone, 'eager') == 2
    for found, wanted in zip(taps_and_gradients(), plain, strict=True):
        torch.testing.assert_close(found, wanted)


@dataclass
class Card:
    """Stands for the memory of a card."""

    free: float

    def __call__(self, device) -> float | None:
        return self.free if device.type == 'cuda' else None


def test_as_little_is_computed_again_as_the_card_allows(monkeypatch):
    cfg = config()
    model = build(MODELS, cfg.model, 'model')
    slot = (4, (56, 56))
    needs = []
    for level in LEVELS:
        recomputation.use_level(model, level)
        needs.append(training_memory(model, *slot, CARD).total)
    assert needs[0] == max(needs) and needs[-1] == min(needs)
    for free in (10 * needs[0], 1.12 * needs[-1], 0.5 * needs[-1]):
        monkeypatch.setattr(recomputation, 'free_memory', Card(free))
        words = fit_recomputation(model, cfg, CARD, 1)
        first = next((level for level, need in zip(LEVELS, needs, strict=True) if need <= 0.9 * free), LEVELS[-1])
        assert current_level(model) == str(first) and words.startswith(str(first))
        assert ('does not fit' in words) == (free < needs[-1])
    monkeypatch.setattr(recomputation, 'free_memory', Card(1e15))
    assert fit_recomputation(model, config(device__recomputation='as_configured'), CARD, 1).startswith('as configured')
    assert fit_recomputation(model, cfg, CPU, 1) == f'as configured: {LEVELS[-1]}'         # as the last choice left it


def test_every_command_that_computes_applies_the_section():
    """Models come out of two doors, and each prepares the device."""
    doors = {'jrs/engine/build.py': 'def build_model', 'jrs/engine/inference.py': 'def load_model'}
    for file, door in doors.items():
        body = (ROOT / file).read_text().partition(door)[2].partition('\ndef ')[0]
        assert 'prepare_device(' in body, f'{file}: {door}'
    for path in (ROOT / 'jrs').glob('c*/*.py'):
        text = path.read_text()
        if path.name not in ('plugin_tutorial.py', 'convert.py') and "build(MODELS" in text:
            raise AssertionError(f'{path} builds a model beside these doors')
