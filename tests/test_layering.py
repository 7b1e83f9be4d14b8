"""Imports point down only (architecture.md section 3).

What that page calls layer 4 has an order of its own: commands use reports, reports use what ran, never the other way.
"""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
LAYERS = [
    {'registry', 'plugins', 'discovery', 'signatures', 'hookspecs', 'contracts', 'structures', 'masks', 'benchmarks',
     'config', 'inheritance', 'profiles', 'schema', 'errors', 'launch', 'finite', 'places', 'opencv', 'draws'},
    {'geometry', 'layers', 'functional', 'io'},
    {'backbones', 'queries', 'heads', 'matching', 'losses', 'alignment', 'postprocess', 'evaluation', 'datasets', 'synth',
     'visualization'},
    {'models'},
    {'engine', 'trials'},
    {'report', 'viewer'},
    {'cli', '__main__'},
]
LAYER = {part: level for level, parts in enumerate(LAYERS) for part in parts}


def imports(path: Path):
    """Yield (module, line) of every absolute import in a file."""
    for node in ast.walk(ast.parse(path.read_text(encoding='utf-8'))):
        if isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f'{path}:{node.lineno}: relative import'
            names = [f'jrs.{alias.name}' for alias in node.names] if node.module == 'jrs' else [node.module]
            yield from ((name, node.lineno) for name in names)


def fault(path: Path, root: Path = ROOT) -> str | None:
    """Return the first import of `path` that points up or sideways, None when all point down."""
    parts = path.relative_to(root).with_suffix('').parts
    own = parts[1] if parts[0] == 'jrs' else parts[0]
    for module, line in imports(path):
        names = module.split('.')
        if names[0] in ('plugins', 'jrs_plugins') and (parts[0] == 'jrs' or names[1] != parts[1]):
            return f'{path}:{line}: {module} is a plugin'
        if names[0] != 'jrs' or len(names) == 1 or names[1] not in LAYER:
            continue
        allowed = 2 if parts[0] == 'plugins' else LAYER[own]
        level = LAYER[names[1]]
        sideways = level == allowed == 2 and names[1] != own and parts[0] == 'jrs'
        if level > allowed or sideways:
            return f'{path}:{line}: {own} (layer {allowed}) imports {module} (layer {level})'
    return None


@pytest.mark.parametrize('path', [*sorted((ROOT / 'jrs').rglob('*.py')), *sorted((ROOT / 'plugins').rglob('*.py'))],
                         ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_point_down_only(path):
    if path == ROOT / 'jrs' / '__init__.py':
        return
    assert fault(path) is None


def test_an_upward_and_a_sideways_import_are_found(tmp_path):
    for room, line in (('heads', 'from jrs.models import segvggt'), ('heads', 'import jrs.losses.camera'),
                       ('models', 'from jrs import engine'),
                       ('report', 'from jrs.cli.options import config_from'), ('engine', 'import jrs.report.runs'),
                       ('heads', 'from jrs_plugins.mask_decoder import decoder')):
        path = tmp_path / 'jrs' / room / 'part.py'
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(line + '\n')
        assert fault(path, tmp_path) is not None, line


def test_every_part_of_jrs_has_a_layer():
    parts = {path.stem for path in (ROOT / 'jrs').iterdir() if path.stem not in ('__init__', '__pycache__', 'labels')}
    assert parts <= set(LAYER)
