"""The table of docs/backbones.md: what benchmarks/results/backbones.json says of every backbone, and what is open."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from benchmarks.backbone_list import ROOT, listed
from benchmarks.record import spread
from jrs.io.atomic import atomic_write
from jrs.report.render import pipes

RESULTS = ROOT / 'benchmarks' / 'results' / 'backbones.json'
PAGE = ROOT / 'docs' / 'backbones.md'
BEGIN, END = '<!-- table: python benchmarks/backbones.py --page -->', '<!-- end of the table -->'
STAGES = ('geometry', 'fine_tuning')
OPEN, FAILED = 'open', 'failed'
HEADS = ('backbone', 'parameters', 'ms per view', 'GB, training / scoring', 'updates', 'Abs Rel',
         'one step: rotation × identity', 'updates after it', 'agnostic AP25 / AP50', 'AP25 / AP50', 'seeds')


def write_page() -> Path:
    """Put the table of the committed record into the page."""
    text = page_text(PAGE.read_text(encoding='utf-8'))
    with atomic_write(PAGE, 'w') as file:
        file.write(text)
    return PAGE


def page_text(page: str) -> str:
    """Return `page` with the table of the committed record between its marks."""
    record = json.loads(RESULTS.read_text(encoding='utf-8')) if RESULTS.is_file() else {}
    before, rest = page.split(BEGIN)
    return '\n'.join([before + BEGIN, '', *table_lines(record), '', END + rest.split(END)[1]])


def table_lines(record: Mapping[str, Any]) -> Iterator[str]:
    """Yield the table as Markdown: every backbone of the registry, further ones that the record has; then what is open."""
    backbones, lacking = listed(plugins=ROOT / 'plugins')
    names = list(dict.fromkeys([*(one.name for one in backbones), *record.get('backbones', {})]))
    yield from pipes(HEADS, [_row(name, record) for name in names])
    yield ''
    if record:
        yield from _made_by(record)
    yield from (f'Not compared: {line}.' for line in lacking)
    unfinished = [name for name in names if not all(_stages(record, name, stage) for stage in STAGES)]
    yield f'Open: {", ".join(unfinished) or "nothing"}.'
    yield from (f'Failed: {one["backbone"]}, seed {one["seed"]}, {one["stage"]}: {one["error"]}'
                for one in record.get('stages', []) if 'error' in one)


def _made_by(record: Mapping[str, Any]) -> Iterator[str]:
    settings, costs = record['settings'], record['backbones'].values()
    machines = dict.fromkeys(f'{one["machine"]["device"]}, torch {one["machine"]["torch"]}' for one in costs)
    commits = dict.fromkeys(one['commit'] for one in [*costs, *record['stages']] if 'commit' in one)
    budget = ', '.join(f'{stage.replace("_", "-")} {minutes:g}' for stage, minutes in settings['minutes'].items())
    yield f'Profile `{settings["profile"]}`; CPU-minutes: {budget}; {"; ".join(machines)}; code {", ".join(commits)}.'
    yield 'Of several seeds: mean [lowest..highest]. Commands and single numbers: `benchmarks/results/backbones.json`.'
    yield ''


def _row(name: str, record: Mapping[str, Any]) -> list[str]:
    cost = record.get('backbones', {}).get(name)
    geometry, tuned = (_stages(record, name, stage) for stage in STAGES)
    failed = {one['stage'] for one in record.get('stages', []) if one['backbone'] == name and 'error' in one}
    blank = {stage: FAILED if stage in failed else OPEN for stage in STAGES}

    def cell(stages: list[dict], stage: str, shown: Callable[[list[dict]], str]) -> str:
        return shown(stages) if stages else blank[stage]
    updates = [str(cost['updates'][stage]) if cost else OPEN for stage in STAGES]
    return [name, f'{cost["parameters"] / 1e6:.2f} M' if cost else OPEN, f'{cost["ms_per_view"]:.1f}' if cost else OPEN,
            cell(geometry, 'geometry', lambda ones: ' / '.join(
                f'{max(one[kind] for one in ones):.2f}' for kind in ('training_gb', 'scoring_gb'))),
            updates[0], cell(geometry, 'geometry', lambda ones: _over_seeds(ones, 'abs_rel', 1, 3)),
            cell(geometry, 'geometry', lambda ones: _over_seeds(ones, 'rotation_ratio', 1, 2)), updates[1],
            *(cell(tuned, 'fine_tuning', lambda ones, kind=kind: ' / '.join(
                _over_seeds(ones, f'{kind}{score}', 100, 1) for score in ('AP25', 'AP50'))) for kind in ('agnostic_', '')),
            ' '.join(str(one['seed']) for one in geometry) or '–']


def _stages(record: Mapping[str, Any], name: str, stage: str) -> list[dict]:
    """Return what the seeds of a stage reached."""
    found = [one for one in record.get('stages', []) if (one['backbone'], one['stage']) == (name, stage)]
    return sorted((one for one in found if 'error' not in one), key=lambda one: one['seed'])


def _over_seeds(ones: list[dict], key: str, scale: float, digits: int) -> str:
    return spread([scale * one[key] for one in ones], digits)
