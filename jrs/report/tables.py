"""The paper's tables as data: which config fills a row, which of our numbers a column shows, what the text claims.

They are nine, and `A3`, which makes a table of what the paper's appendix 0.A.3 says in words.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cache
from importlib.resources import files
from typing import Any

import yaml

from jrs.errors import ConfigError


@dataclass(frozen=True)
class Measure:
    """One of our numbers: its key in our results, how it is shown, and whether less is better."""

    key: str
    title: str
    scale: float = 1.0
    digits: int = 1
    less_is_better: bool = False


@dataclass(frozen=True)
class Column:
    """A column of numbers: the name in the paper's data, what it shows, and for which benchmark ('' = the table's only)."""

    name: str
    measure: Measure
    benchmark: str = ''

    @property
    def title(self) -> str:
        """What its head says."""
        return f'{self.benchmark} {self.measure.title}'.strip()


@dataclass(frozen=True)
class Row:
    """A row: cells that say what it is, the paper's numbers, and the config of each benchmark.

    Attributes:
        number: of the paper, from 1; claims name rows so. 0 for rows that are not in the paper.
        label: all of `cells` in words.
        cells: the columns that are no numbers.
        paper: number of each column, None for a dash; empty for rows that are not in the paper.
        configs: benchmark -> config file, as written in the data.
        kind: 'native', 'external' (scored from prediction files) or 'extra' (named on the command line or by a plugin).
        method: what its folder of predictions is called after.
    """

    number: int
    label: str
    cells: tuple[str, ...]
    paper: dict[str, float | None]
    configs: dict[str, str]
    kind: str
    method: str


@dataclass
class Table:
    """A table to fill; `id` is None for one that the paper does not have, a word for one that it has in words."""

    id: int | str | None
    caption: str
    heads: tuple[str, ...]
    columns: list[Column]
    rows: list[Row]
    claims: list[dict[str, Any]] = field(default_factory=list)
    subset: str = ''

    @property
    def name(self) -> str:
        """What files and headings call it."""
        return 'sweep' if self.id is None else f'table{self.id}'

    @property
    def title(self) -> str:
        """The heading."""
        if self.id is None:
            return 'Experiments named on the command line'
        return f'{"Appendix" if isinstance(self.id, str) else "Table"} {self.id}'


AWARE = dict(map=Measure('instance/AP', 'mAP', 100), map50=Measure('instance/AP50', 'mAP50', 100),
             map25=Measure('instance/AP25', 'mAP25', 100))
AGNOSTIC = dict(map=Measure('instance/agnostic_AP', 'mAP', 100), map50=Measure('instance/agnostic_AP50', 'mAP50', 100),
                map25=Measure('instance/agnostic_AP25', 'mAP25', 100))
GEOMETRY = dict(abs_rel=Measure('depth/abs_rel', 'Abs Rel', digits=4, less_is_better=True),
                delta=Measure('depth/delta_1.25', 'δ < 1.25', digits=3))
TIMING = {name: Measure(name, title, digits=2, less_is_better=True) for name, title in dict(
    aggregator_s='aggregator (s)', heads_s='heads (s)', inference_s='inference (s)', postprocess_s='post-processing (s)',
    total_s='total (s)', memory_gb='memory (GB)').items()}
ATTENTION = {f'{name}_slope': Measure(f'attention/{name}/slope', f'slope of {title}', 1.0, 3, name != 'view_mass')
             for name, title in dict(entropy='entropy', view_mass='mass on right views', js='JS divergence').items()}
SWEEP = (*AWARE.values(), *(Measure(one.key, f'agnostic {one.title}', one.scale) for one in AGNOSTIC.values()),
         *GEOMETRY.values(), Measure('camera/auc30', 'camera AUC@30', 100))
TIMING_TABLES = (5, 6)
MEASURES = {5: TIMING, 6: TIMING, 9: GEOMETRY, 'A3': ATTENTION}                # others: instances
# The paper's word for a benchmark -> key of a row's config there, name in jrs.benchmarks.
BENCHMARKS = dict(scannet200=('jrs', 'scannet200'), scannetv2=('jrs_scannetv2', 'scannet20'),
                  scannetpp=('jrs_scannetpp', 'scannetpp'))
# What a table's test changes in a row's own; nothing of it changes training. Ten scenes: see `jrs.datasets.splits`.
SCORING = {2: {}, 9: {'test_dataset.max_views': 10, 'metrics.instances': None},
           'A3': {'metrics.attention.type': 'AttentionMetric', 'metrics.instances': None, 'metrics.depth': None,
                  'metrics.cameras': None}}
SUBSETS = {2: 'val', 9: 'test'}
UNTRAINED = ('vggt_pretrained',)               # experiments whose published weights are scored as they are


def load_tables(ids: Iterable[int | str]) -> list[Table]:
    """Return the paper's tables `ids`.

    Raises:
        ConfigError: there is no such table.
    """
    data = _data()
    entries = {entry['id']: entry for entry in data['tables']}
    unknown = [number for number in ids if number not in entries]
    if unknown:
        raise ConfigError(f'the paper has no table {unknown[0]}; there are {", ".join(map(str, entries))}.')
    return [_table(entries[number], [claim for claim in data['claims'] if claim['table'] == number])
            for number in dict.fromkeys(ids)]


def sweep_table(rows: list[Row]) -> Table:
    """Return a table of experiments that the paper does not have."""
    columns = [Column(measure.key, measure) for measure in SWEEP]
    return Table(None, 'All experiments at the same scale, each with its own test scenes.', ('experiment',), columns, rows)


def extra_row(table: Table, name: str, config: str, benchmark: str) -> Row:
    """Return a row for a config that the paper does not have; `benchmark` is what the config is tested on."""
    single = {column.benchmark for column in table.columns} == {''}
    words = [word for word, (_, ours) in BENCHMARKS.items() if single or ours == benchmark]
    if not words:
        raise ConfigError(f'{config} is tested on the benchmark {benchmark!r}, and table {table.id} has columns for '
                          f'{", ".join(ours for _, ours in BENCHMARKS.values())} only: name a table of one benchmark.')
    word = '' if single else words[0]
    return Row(0, name, (name, *['' for _ in table.heads[1:]]), {}, {word: config}, 'extra', name)


@cache
def _data() -> dict:
    """Return the file, which is read once; nobody changes it."""
    return yaml.safe_load(files('jrs.report').joinpath('paper_tables.yaml').read_text(encoding='utf-8-sig'))


def _table(entry: dict, claims: list[dict]) -> Table:
    measures = MEASURES.get(entry['id'], AGNOSTIC if entry['setting'].get('class_agnostic') else AWARE)
    columns = [column for column in (_column(name, measures) for name in entry['columns']) if column is not None]
    heads = tuple(name for name in entry['columns'] if name not in {column.name for column in columns})
    rows = [_row(number, row, heads, columns) for number, row in enumerate(entry['rows'], start=1)]
    return Table(entry['id'], ' '.join(entry['caption'].split()), heads, columns, rows, claims, SUBSETS.get(entry['id'], ''))


def _column(name: str, measures: dict[str, Measure]) -> Column | None:
    benchmark, _, rest = name.rpartition('_')
    if name in measures:
        return Column(name, measures[name])
    return Column(name, measures[rest], benchmark) if benchmark in BENCHMARKS and rest in measures else None


def _row(number: int, data: dict, heads: tuple[str, ...], columns: list[Column]) -> Row:
    cells = [data[head] for head in heads]
    keys = {column.benchmark: BENCHMARKS.get(column.benchmark, ('jrs',))[0] for column in columns}
    words = [cell if isinstance(cell, str) else f'{head} {_word(cell)}'.replace('_', ' ')
             for head, cell in zip(heads, cells, strict=True) if cell is not None]
    paper = {column.name: data[column.name] for column in columns}
    configs = {benchmark: data[key] for benchmark, key in keys.items() if key in data}
    return Row(number, ', '.join(words), tuple(map(_word, cells)), paper, configs, data['kind'], str(cells[0]))


def _word(cell: Any) -> str:
    if isinstance(cell, bool):
        return 'yes' if cell else 'no'
    return '–' if cell is None else str(cell)
