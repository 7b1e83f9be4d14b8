"""Contracts on the command line: described with an example, started from, checked by a small batch, and one page of them."""

from __future__ import annotations

import inspect
import runpy
import subprocess
import sys

import pytest

from jrs.cli.plugin_page import page
from jrs.cli.plugin_skeleton import class_name
from jrs.config import load_config
from jrs.contracts import CONTRACTS
from jrs.contracts.examples import EXAMPLES
from jrs.engine.build import build_model
from jrs.registry import SLOTS
from tests._data import MAIN, ROOT, command
from tests.test_registered import registered

NAME = 'my_own_part'


@pytest.mark.parametrize('kind', EXAMPLES)
def test_a_new_plugin_of_any_slot_passes_its_test_and_the_check_and_builds_in_an_experiment(kind, tmp_path, fresh,
                                                                                            capsys):
    assert command('plugins', 'new', NAME, '--slot', kind, '--into', tmp_path) == 0
    folder = tmp_path / NAME
    printed = capsys.readouterr().out
    tests = runpy.run_path(str(folder / 'tests' / f'test_{NAME}.py'))
    claims = [value for name, value in tests.items() if name.startswith('test_')]
    for claim in claims:
        claim(*([tmp_path] if 'tmp_path' in inspect.signature(claim).parameters else []))
    assert len(claims) == 2 and 'Expected: 2 passed' in (folder / 'README.md').read_text()
    assert command('plugins', 'check', folder) == 0, capsys.readouterr().out
    assert f'provides  {kind.partition(".")[0]}: {class_name(NAME)}' in capsys.readouterr().out
    lines = printed[printed.index('_base_'):].splitlines()
    config = [line for line in lines if not line.startswith('tests/')]
    (tmp_path / 'row.py').write_text('\n'.join(line.removeprefix('  ') for line in config).replace(
        "'configs/segvggt/all24_fada.py'", repr(str(MAIN))))
    cfg = load_config(tmp_path / 'row.py', 'debug')
    assert class_name(NAME) in cfg.pretty_text
    if 'model = ' in printed:
        build_model(cfg)


def test_a_part_of_a_part_is_looked_up_in_its_own_slot():
    overrides = {'model.queries.self_insertion': dict(type='LateLayers'),
                 'model.backbone.global_attention': dict(type='FusedAttention')}
    assert load_config(MAIN, 'debug', overrides).model.queries.self_insertion.type == 'LateLayers'


def test_every_kind_of_part_has_an_example_and_every_slot_with_parts_a_contract():
    kinds = {one.name for group in CONTRACTS.values() for one in group if one.public}
    assert kinds == set(EXAMPLES)
    without = {'models', 'loops', 'functions'}                              # what jrs brings, and nothing chooses
    with_parts = {slot.upper() for slot, registry in SLOTS.items() if slot not in without and registered(registry)}
    assert with_parts <= set(CONTRACTS)


def test_describing_imports_neither_torch_nor_a_part():
    code = ("import sys; from jrs.cli.plugins import main; main(['describe', 'backbones']); main(['describe']); "
            "assert 'torch' not in sys.modules")
    printed = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, check=True).stdout
    assert EXAMPLES['BACKBONES'].part.strip() in printed and '- `scale` (' in printed and 'features() -> Fea' in printed
    assert all(any(line.startswith(f'{kind} ') for line in printed.splitlines()) for kind in EXAMPLES)


def test_a_slot_with_several_kinds_is_described_whole_or_one_of_them(capsys):
    assert command('plugins', 'describe', 'LOSSES') == 0
    whole = capsys.readouterr().out
    assert all(f'## LOSSES.{kind}' in whole for kind in ('instances', 'features', 'geometry'))
    assert 'Evaluates and weighs' not in whole
    assert command('plugins', 'describe', 'losses.geometry') == 0
    assert 'LOSSES.instances' not in capsys.readouterr().out
    assert command('plugins', 'describe', 'LOSES') == 2
    assert "'LOSSES'" in capsys.readouterr().err
    assert command('plugins', 'new', 'some_part', '--slot', 'HEAD') == 2
    assert "'HEADS'" in capsys.readouterr().err


def test_the_check_runs_a_batch_through_the_parts(tmp_path, fresh, capsys):
    text = EXAMPLES['COSTS'].part.replace('class SpillCost', 'class Turned').replace('spill /', 'spill.T /')
    (tmp_path / 'turned.py').write_text(text)
    assert command('plugins', 'check', tmp_path / 'turned.py') == 1
    assert 'lacks     COSTS.Turned: the cost with 2 views and 2 instances has shape (2, 6), not (Q, G)' in (
        capsys.readouterr().out)


def test_the_page_is_what_the_code_says(tmp_path, capsys):
    assert (ROOT / 'docs' / 'plugins.md').read_text(encoding='utf-8') == page(), (
        'docs/plugins.md is behind the contracts: run python tools/plugins.py docs --out docs/plugins.md')
    assert command('plugins', 'docs', '--out', tmp_path / 'page.md') == 0
    assert (tmp_path / 'page.md').read_text(encoding='utf-8') == page()


def test_the_page_has_every_contract_structure_and_hook():
    from jrs import hookspecs
    text = page()
    for kind, example in EXAMPLES.items():
        assert f'# {kind}\n' in text and example.part.strip() in text
    for name in ('SceneBatch', 'FeatureTaps', 'LayerState', 'QueryPredictions', 'InstanceTargets', 'Match', 'Predictions',
                 'GeometryTargets', 'SceneGroundTruth', 'Reconstruction', 'Instances', 'MaskLogits', 'Scene'):
        assert f'\n### {name}\n' in text
    assert all(f'**`{name}(' in text for name, spec in vars(hookspecs).items() if inspect.isfunction(spec))
