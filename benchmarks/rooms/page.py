"""Writes docs/rooms.md: what was measured on the built-in rooms, every number from the logs in benchmarks/results/rooms/.

    python benchmarks/rooms/page.py

`publish.py` adds the logs of a run; a row of a table that has no run says so.
"""

from __future__ import annotations

import argparse
import csv
import json
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from statistics import mean

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from benchmarks.record import spread  # noqa: E402
from benchmarks.rooms import stronger, where_fada_pays  # noqa: E402
from benchmarks.rooms import tables as again  # noqa: E402
from benchmarks.rooms.publish import RESULTS  # noqa: E402
from benchmarks.rooms.study import TEST  # noqa: E402
from jrs.evaluation.attention import depth_slope  # noqa: E402
from jrs.io.atomic import atomic_write  # noqa: E402
from jrs.report.intervals import resampled_of  # noqa: E402
from jrs.report.plan import Variant  # noqa: E402
from jrs.report.render import Sheet, pipes, sheets, table_lines  # noqa: E402
from jrs.report.results import Entry, Number, take_draws  # noqa: E402
from jrs.report.tables import AGNOSTIC, SCORING, UNTRAINED, Row, Table, load_tables  # noqa: E402
from jrs.report.transfer_rules import LEGEND, own_rules, rule_table  # noqa: E402

PAGE = Path(__file__).resolve().parents[2] / 'docs' / 'rooms.md'
TABLES = (3, 4, 7, 8, 9, 2)
COMMITTED = 'all24_fada_rooms_committed'          # the run that made the weights of the project
BESIDE = 'test_committed'                        # of the demo: the committed weights on its rooms
OF_POINTS = 'none: points'                      # what a test of points says of its views
LOOSELY = (3, 4, 7, 8)                          # also judged by the score that says most at this size
BY_LENGTH = ('all24_fada', 'all24_no_fada')
BY_DEPTH = {'none': 'FADA', 'none, 2400': 'FADA, 2400'}               # studies without and with FADA of one length
STAGES = ('pretrain_rooms_neighbours', 'pretrain_rooms_wide', 'pretrain_rooms')
METRES = ('segvggt_geometry_only_rooms_seed0', 'vggt_metric_rooms_seed0')
ONE_START = '_rooms_table2_seed'                # runs of equal minutes from the same geometry: row -> name
IMAGE_ROWS = {'iggt': 'IGGT', 'panst3r_style': 'PanSt3R-style', 'pano3d_style': 'Pano3D-style', 'all24_fada': 'SegVGGT'}
SEEDS = range(3)                                # that were planned of each
PROFILE = Variant('rooms', (), '')
# Tests of Table 1 beside a row's own: neighbouring views, and true geometry in the place of the network's.
SHOWN = ('neighbours', 'two_stage_neighbours', 'two_stage_truth', 'two_stage_truth_neighbours')
PARTS = Path(__file__).resolve().parent / 'words'                     # the prose between the numbers


@dataclass(frozen=True)
class Run:
    """Logs of one run, in a folder of RESULTS."""

    folder: Path

    @property
    def name(self) -> str:
        """Name of the run folder."""
        return self.folder.name

    @cached_property
    def record(self) -> dict:
        """What `run.json` says; where nothing was trained, what its test says."""
        path = self.folder / 'run.json'
        return json.loads(path.read_text(encoding='utf-8')) if path.is_file() else next(iter(self.tests.values()))

    @cached_property
    def curve(self) -> list[dict[str, float]]:
        """Means of all terms over 20 iterations each."""
        with (self.folder / 'curve.csv').open(encoding='utf-8') as file:
            return [{name: float(value) for name, value in line.items()} for line in csv.DictReader(file)]

    @cached_property
    def tests(self) -> dict[str, dict]:
        """Name of the folder of a test -> its `results.json`."""
        return {path.parent.name: json.loads(path.read_text(encoding='utf-8'))
                for path in sorted(self.folder.glob('test*/results.json'))}

    @property
    def cpu_minutes(self) -> float:
        """Of training: what a process computed, of older runs its hours on the clock with one thread, times processes."""
        ranks = self.record.get('processes', 2 if '--launcher' in self.record['command'] else 1)    # older runs: no number
        return 60 * ranks * self.record.get('cpu_hours', self.record['hours'])

    @property
    def iterations(self) -> int:
        """Those that were trained."""
        return int(self.curve[-1]['iteration'])

    def score(self, key: str, test: str = 'test') -> float:
        """Return a number of the run's own test, or of another."""
        return self.tests[test]['metrics'][key]


Results = Callable[[str], Iterator[tuple[int, Run, Path, dict]]]     # config -> seed, run, folder and result of its tests


def main() -> None:
    """Write the page."""
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    with atomic_write(PAGE, 'w') as file:
        file.write(page_text())
    print(PAGE)


def page_text() -> str:
    """Return the page as Markdown."""
    return '\n'.join(line.rstrip() for line in page_lines()) + '\n'


def page_lines() -> Iterator[str]:
    """Yield the lines of the page: words from `words/<part>.md`, each before its tables."""
    yield from ('<!-- Written by `python benchmarks/rooms/page.py` from benchmarks/results/rooms/; change words in '
                'benchmarks/rooms/words/. -->', '')
    for name, numbers in (('overview', main_numbers), ('geometry', geometry), ('metres', metres), ('instances', instances),
                          ('names', names), ('transfer', transfer), ('demo', demo), ('again', unseen), ('tables', tables),
                          ('images', images), ('points', points), ('fada', fada), ('where', where_fada_pays.table_lines),
                          ('attention', where_fada_pays.attention_lines), ('averaged', where_fada_pays.averaged_lines),
                          ('stronger', stronger.table_lines), ('small', lambda: ())):
        if name == 'images' and not runs(f'*{ONE_START}[0-9]'):
            continue
        yield from (PARTS / f'{name}.md').read_text(encoding='utf-8').splitlines()
        yield ''
        yield from numbers()
        yield ''


def run(name: str) -> Run | None:
    """Return the logs of a run, None where there are none."""
    return Run(RESULTS / name) if (RESULTS / name / 'run.json').is_file() else None


def runs(pattern: str) -> list[Run]:
    """Return the runs whose folder fits a shell pattern, by name."""
    return [Run(path) for path in sorted(RESULTS.glob(pattern)) if path.is_dir()]


def segmenting(pattern: str) -> list[Run]:
    """Return those of `runs(pattern)` whose own test scored instances of images."""
    return [one for one in runs(pattern) if 'instance/agnostic_AP25' in one.tests.get('test', {}).get('metrics', {})
            and one.tests['test']['facts'].get('views_per_scene') != OF_POINTS]


def load(name: str) -> dict | None:
    """Return a JSON file of RESULTS, None where it is not there."""
    path = RESULTS / name
    return json.loads(path.read_text(encoding='utf-8')) if path.is_file() else None


def command(words: list[str]) -> str:
    """Return a command as typed, paths of this machine's scratch folders shortened to their names."""
    return 'python ' + ' '.join(Path(word).name if word.startswith('/') else word for word in words)


def main_numbers() -> Iterator[str]:
    """What the committed weights reach."""
    trivial, own, rows = load('trivial.json'), run(COMMITTED), []
    if trivial:
        rows.append(_geometry_row('mean depth map, cameras that never turn', '–', '–', trivial['metrics'], trivial))
    for name, stages in (('pretrain_rooms', STAGES), *((one, (one,)) for one in ('all24_fada_rooms_full', COMMITTED))):
        made = [one for one in map(run, stages) if one]
        if run(name):
            minutes, iterations = sum(one.cpu_minutes for one in made), sum(one.iterations for one in made)
            words = f'{name} (all {len(made)} stages)' if len(made) > 1 else name
            rows.append(_geometry_row(words, f'{minutes:.0f}', str(iterations), run(name).tests['test']['metrics'], trivial))
    if shifted := own and own.tests.get('test_shifted'):
        rows.append(_geometry_row(f'{own.name}, on rooms of the shifted style', '–', '–', shifted['metrics'], None))
    yield from pipes(('32 held-out rooms, 12 views each', 'CPU-min', 'iterations', 'Abs Rel', '× mean map',
                      'rotation error (median, degrees)', '× identity', 'agnostic AP25 / AP50',
                      'class-aware AP25 / AP50'), rows)


def _geometry_row(name: str, minutes: str, iterations: str, metrics: dict, trivial: dict | None) -> list[str]:
    depth, rotation = metrics['depth/abs_rel'], metrics['camera/rotation_median']
    share = f'{depth / trivial["metrics"]["depth/abs_rel"]:.2f}' if trivial else '–'
    aware = [f'{100 * metrics[f"instance/{kind}AP25"]:.1f} / {100 * metrics[f"instance/{kind}AP50"]:.1f}'
             if f'instance/{kind}AP25' in metrics else '–' for kind in ('agnostic_', '')]
    return [name, minutes, iterations, f'{depth:.3f}', share, f'{rotation:.1f}',
            f'{rotation / metrics["camera/rotation_median_identity"]:.2f}', *aware]


def geometry() -> Iterator[str]:
    """Rotations by distance of views, curves of the stages of pre-training, and what was tried."""
    if spacing := load('spacing.json'):
        yield from pipes(('steps between four views', 'rotation error (median, degrees)', 'identity', 'ratio',
                          'within 15 degrees', 'identity'), [
            [str(row['step']), f'{row["rotation_median"]:.1f}', f'{row["rotation_median_identity"]:.1f}',
             f'{row["ratio"]:.2f}', f'{row["rra15"]:.2f}', f'{row["rra15_identity"]:.2f}'] for row in spacing['steps']])
        yield from ('', f'`{command(spacing["command"])}`', '')
    for name in STAGES:
        if one := run(name):
            test = one.tests.get('test', {}).get('metrics')
            reached = '' if test is None else (f' Held-out rooms after it: Abs Rel {test["depth/abs_rel"]:.3f}, rotation '
                                               f'{test["camera/rotation_median"]:.1f} degrees.')
            yield from (f'`{name}`: `{command(one.record["command"])}`, {one.cpu_minutes:.0f} CPU-minutes, code '
                        f'{one.record["commit"]}.{reached}', '')
            yield from pipes(('iteration', 'depth error', 'rotation (quaternion, L1)', 'translation', 'matching',
                              'displacement'), [
                [f'{line["iteration"]:.0f}', *(f'{line[key]:.3f}' for key in (
                    'depth/regression', 'camera/rotation', 'camera/translation', 'loss_matching', 'loss_displacement'))]
                for line in _every(one.curve, 9)])
            yield ''
    if lab := load('lab.json'):
        yield from (f'What was tried ({lab["note"]}):', '')
        yield from pipes(('run', 'what', 'views', 'iterations', 'CPU-s', 'one step: error / identity', 'two steps',
                          'Abs Rel'), [
            [row['run'], row['what'], row['views'], str(row['iterations']), str(row['cpu_seconds']),
             *(f'{error:.1f} / {identity:.1f}' for error, identity in (row['one_step'], row['two_steps'])),
             f'{row["abs_rel"]:.3f}'] for row in lab['rows']])


def metres() -> Iterator[str]:
    """Depth in metres and after one scale per scene, with and without a head for the scale."""
    keys = ('depth/metric/abs_rel', 'depth/metric/delta_1.25', 'depth/median/abs_rel', 'depth/median/delta_1.25')
    yield from pipes(('run', 'iterations', 'CPU-min', 'as predicted: Abs Rel', 'δ < 1.25', 'one scale per scene: Abs Rel',
                      'δ < 1.25', 'command'), [
        [one.name, str(one.iterations), f'{one.cpu_minutes:.0f}', *(f'{one.score(key):.3f}' for key in keys),
         f'`{command(one.record["command"])}`'] for one in map(run, METRES) if one])


def instances() -> Iterator[str]:
    """Every run that segments, with its command."""
    heads = ('run', 'iterations', 'CPU-min', 'agnostic AP25 / AP50', 'class-aware AP25 / AP50', 'Abs Rel', 'command')
    yield from pipes(heads, [
        [one.name, str(one.iterations), f'{one.cpu_minutes:.1f}', _pair(one, 'instance/agnostic_'), _pair(one, 'instance/'),
         f'{one.score("depth/abs_rel"):.3f}', f'`{command(one.record["command"])}`'] for one in segmenting('*_rooms_*')
        if ONE_START not in one.name])
    if record := load('coverage.json'):
        from benchmarks.rooms.coverage import lines_of  # with torch, which the page does without
        yield from ('', 'What limits them, of the committed weights: how many objects any query covers, and what the same '
                    f'masks would reach if the best of each object were ranked first (`{command(record["command"])}`):', '')
        yield from lines_of(record)


def names() -> Iterator[str]:
    """Known and novel names beside shuffled ones, as `novel.py` measured them."""
    found = load('novel.json')
    if found is None:
        return
    shuffled = [way for name, way in found['by_way'].items() if name != 'names']
    asked = found['objects_asked']
    heads = ('', 'AP25', 'AP50', 'named among all 40', 'named among its kind')

    def row(what: str, kind: str, ways: list[dict]) -> list[str]:
        keys = (f'{kind}_AP25', f'{kind}_AP50', f'{kind}_named_among_all', f'{kind}_named_among_{kind}')
        return [what, *(spread([way[key] for way in ways]) for key in keys)]
    own = [found['by_way']['names']]
    yield from pipes(heads, [
        row(f'known names ({asked["known"]} objects asked)', 'known', own),
        row(f'novel names ({asked["novel"]} objects asked)', 'novel', own),
        row(f'novel names, shuffled ({len(shuffled)} times)', 'novel', shuffled)])
    length = '' if found['iterations'] == found['planned_iterations'] else f' of {found["planned_iterations"]}'
    yield from ('', f'{found["iterations"]}{length} iterations, {found["scenes"]} held-out rooms, class-agnostic AP25 '
                f'{own[0]["agnostic_AP25"]:.1f}. `{command(found["training"])}`; `{command(found["command"])}`')


def transfer() -> Iterator[str]:
    """The committed weights by every rule of transfer, the oracle beside each."""
    found = run(COMMITTED)
    result = found and found.tests.get('test_rules')
    if result:
        yield from pipes(*rule_table(result['transfer_rules']))
        yield from ('', f'`{command(result["command"])}`; {"; ".join(own_rules(result["transfer_rules"]))}. {LEGEND}')


def demo() -> Iterator[str]:
    """`make demo` with and without the committed weights."""
    found = [one for one in map(run, ('demo', 'demo_scratch')) if one]
    heads = ('run', 'iterations', 'training, minutes', 'agnostic AP25 / AP50', 'class-aware AP25 / AP50', 'Abs Rel')
    yield from pipes(heads, [
        [one.name, str(one.iterations), f'{60 * one.record["hours"]:.1f}', _pair(one, 'instance/agnostic_'),
         _pair(one, 'instance/'), f'{one.score("depth/abs_rel"):.3f}'] for one in found] + [
        [f'{one.name}: the committed weights', '–', '–', _pair(one, 'instance/agnostic_', BESIDE),
         _pair(one, 'instance/', BESIDE), f'{one.score("depth/abs_rel", BESIDE):.3f}']
        for one in found if BESIDE in one.tests])
    for one in found:
        yield from ('', f'`{one.name}`, terms of training:', '')
        names = ('loss', 'loss_classification', 'loss_mask_bce', 'loss_mask_dice', 'loss_fada', 'loss_camera', 'loss_depth')
        yield from pipes(('iteration', *names), [
            [f'{line["iteration"]:.0f}', *(f'{line[name]:.3f}' for name in names)] for line in _every(one.curve, 8)])


def tables() -> Iterator[str]:
    """All rows class-agnostically, then the paper's tables beside ours, and their claims."""
    rows: dict[str, list[Run]] = {}
    for one in segmenting('*_rooms_seed[0-9]'):
        rows.setdefault(one.name.rpartition('_rooms_')[0], []).append(one)
    yield from pipes(('short schedule, class-agnostic', 'seeds', 'AP25', 'AP50'), [
        [name, str(len(found)), *(_over_seeds(found, f'instance/agnostic_{ap}') for ap in ('AP25', 'AP50'))]
        for name, found in rows.items()])
    yield from ('', 'What the paper says of its tables, judged by class-agnostic AP25 in the place of its mAP:', '')
    yield from pipes(('table', 'claim of the paper', 'here', 'numbers'), _verdicts(sheets(
        [entry for table in load_tables(LOOSELY) for entry in _entries(_by_agnostic_ap25(table))])))
    yield ''
    for sheet in sheets([entry for table in load_tables(TABLES) for entry in _entries(table)]):
        yield from table_lines(sheet)


def images() -> Iterator[str]:
    """Methods that see images after equal minutes from the same geometry, the oracle, what is open, and IGGT by ranking."""
    found = {name: [one for one in runs(f'{name}{ONE_START}[0-9]') if 'test' in one.tests] for name in IMAGE_ROWS}
    keys = {'AP': 'instance/agnostic_AP', 'AP50': 'instance/agnostic_AP50', 'AP25': 'instance/agnostic_AP25',
            'PQ things, mesh': 'panoptic/vertices/agnostic_PQ_things',
            'PQ things, pixels': 'panoptic/pixels/agnostic_PQ_things'}

    def row(name: str, made: list[Run]) -> list[str]:
        sizes = next((one.record['parameters'] for one in made if 'parameters' in one.record), None)
        return [name, str(len(made)), *(_scores(made, key, 100, 1) for key in keys.values()),
                _scores(made, 'depth/abs_rel', 1, 3), spread([one.cpu_minutes for one in made]), str(made[0].iterations),
                f'{sizes["all"] / 1e6:.2f}, {sizes["learned"] / 1e6:.2f}' if sizes else '–']
    heads = ('method', 'seeds', *keys, 'Abs Rel', 'CPU-min', 'iterations', 'million parameters, learned')
    rows = [row(IMAGE_ROWS[name], made) if made else [IMAGE_ROWS[name], 'open', *['–'] * (len(heads) - 2)]
            for name, made in found.items()]
    made = [one for ones in found.values() for one in ones]
    oracles: dict[tuple[str, ...], list[str]] = {}                          # scores -> whose masks have that size
    for name, ones in found.items():
        if ones:
            scores = (_scores(ones[:1], key.replace('agnostic', 'oracle_agnostic'), 100, 1) for key in keys.values())
            oracles.setdefault(tuple(scores), []).append(IMAGE_ROWS[name])
    yield from pipes(heads, [*rows, *([f'true masks at the size of {" and ".join(names)}', '–', *scores, *['–'] * 4]
                                      for scores, names in oracles.items())])
    missing = [f'{name}, seed {seed}' for name in IMAGE_ROWS for seed in SEEDS
               if f'{name}{ONE_START}{seed}' not in {one.name for one in made}]
    yield from ('', f'Open: {"; ".join(missing)}.' if missing else 'None is open.', '')
    if iggt := found['iggt']:
        names = [key.removeprefix('instance/by_').removesuffix('_agnostic_AP') for key in iggt[0].tests['test']['metrics']
                 if key.startswith('instance/by_') and key.endswith('_agnostic_AP')]
        ways = {iggt[0].tests['test']['facts']['ranking']: '', **{name: f'by_{name}_' for name in names}}
        yield from pipes(('IGGT, clusters ranked by', 'AP', 'AP50', 'AP25'), [
            [way, *(_scores(iggt, f'instance/{prefix}agnostic_{ap}', 100, 1) for ap in ('AP', 'AP50', 'AP25'))]
            for way, prefix in ways.items()])
        yield ''
    for one in made:
        yield f'- {one.name}: `{command(one.record["command"])}`; `{command(one.tests["test"]["command"])}`'


def _scores(made: list[Run], key: str, scale: float, digits: int) -> str:
    """Return the mean and range of a number of the runs' own tests; '–' where none has it."""
    values = [one.tests['test']['metrics'].get(key) for one in made]
    return spread([scale * value for value in values if value is not None], digits)


def unseen() -> Iterator[str]:
    """Rows and claims by class-agnostic AP25 on rooms that only score, with intervals, as `tables.py` keeps them."""
    rows, verdicts = {}, []
    for table in map(_by_agnostic_ap25, load_tables(LOOSELY)):
        entries = [_entry(table, row, partial(_kept_again, table.id)) for row in _native(table)]
        for entry in entries:
            rows[again.LENGTHS[table.id], Path(next(iter(entry.row.configs.values()))).stem] = entry.numbers['map']
        verdicts += _verdicts(sheets(entries))
    yield from pipes(('iterations', 'row', 'class-agnostic AP25'), [
        [str(length), row, number.ours] for (length, row), number in sorted(rows.items()) if number.values])
    yield ''
    yield from pipes(('table', 'claim of the paper', 'here', 'numbers'), verdicts)
    yield from again.open_lines(RESULTS)
    yield ''


def _kept_again(table: int, config: str) -> Iterator[tuple[int, Run, Path, dict]]:
    for seed, folder in again.kept_runs(table, config, RESULTS):
        one = Run(folder)
        yield seed, one, folder / TEST, one.tests[TEST]


def _verdicts(found: list[Sheet]) -> list[list[str]]:
    """Return a row per claim of the tables: where it stands, and by which numbers."""
    return [[str(sheet.table.id), verdict.text, verdict.status, verdict.numbers or '–'] for sheet in found
            for _, verdict in sheet.verdicts]


def points() -> Iterator[str]:
    """Every test of a row of Table 1, points against images, then that table beside the paper's."""
    heads = ('row of Table 1', 'sees', 'test', 'iterations', 'CPU-min', 'agnostic AP50 / AP25', 'class-aware AP50 / AP25',
             'points near the mesh', 'pure superpoints')
    table, rows, commands = load_tables((1,))[0], [], []
    for row in (row for row in table.rows if row.kind != 'external'):
        stems = {Path(config).stem: benchmark for benchmark, config in row.configs.items()}
        for one in (*runs('*_rooms_seed[0-9]'), *runs('*_rooms_full')):
            for name, result in one.tests.items():
                stem = Path(result['facts']['config']).stem
                if stem in stems and name.partition('_')[2] in ('', stem, *SHOWN):
                    rows.append([f'{row.cells[0]}, {stems[stem]}', row.cells[1], f'{one.name}, {name}', str(one.iterations),
                                 f'{one.cpu_minutes:.0f}', *_aps(result['metrics']), *(
                                     f'{result["metrics"][key]:.2f}' if key in result['metrics'] else '–'
                                     for key in ('points/on_mesh', 'points/pure'))])
                    commands.append(f'- {one.name}, {name}: `{command(result["command"])}`' if 'command' in result else '')
    yield from pipes(heads, rows)
    yield from ('', *filter(None, commands), '')
    for sheet in sheets(list(_entries(table))):
        yield from table_lines(sheet)


def _aps(metrics: dict) -> list[str]:
    """Return AP50 and AP25, class-agnostic and class-aware; '–' for what was not scored."""
    keys = [[f'instance/{kind}{ap}' for ap in ('AP50', 'AP25')] for kind in ('agnostic_', '')]
    return [' / '.join('–' if metrics.get(key) is None else f'{100 * metrics[key]:.1f}' for key in pair) for pair in keys]


def _by_agnostic_ap25(table: Table) -> Table:
    """Return a table whose column for mAP shows class-agnostic AP25, the score that differs from zero at this size."""
    columns = [replace(column, measure=AGNOSTIC['map25']) for column in table.columns if column.name == 'map']
    return replace(table, columns=columns)


def _native(table: Table) -> list[Row]:
    """Return the rows that a config of ours fills."""
    return [row for row in table.rows if row.kind != 'external']


def _entries(table: Table) -> list[Entry]:
    """Return the rows that a config of ours fills, with what the table's own tests of runs say."""
    test = f'test_table{table.id}' if table.id in SCORING else 'test'
    return [_entry(table, row, partial(_results, test)) for row in _native(table)]


def _entry(table: Table, row: Row, results: Results) -> Entry:
    """Return a row with what the results of its configs say."""
    numbers = {column.name: Number(column, row.paper.get(column.name)) for column in table.columns}
    entry, hours = Entry(table, row, PROFILE, numbers), []
    for benchmark, config in row.configs.items():
        for seed, one, folder, result in results(config):
            for column in table.columns:
                value = result['metrics'].get(column.measure.key)
                if column.benchmark == benchmark and value is not None:
                    numbers[column.name].values[seed] = value * column.measure.scale
                    numbers[column.name].fixed = Path(config).stem in UNTRAINED
            take_draws(entry, benchmark, seed, resampled_of(folder))
            entry.commits += [one.record['commit']] if one.record['commit'] not in entry.commits else []
            words = f'{one.name}: {command(one.record["command"])}'
            entry.commands += [words] if words not in entry.commands else []
            entry.memory_gb = max(entry.memory_gb or 0.0, one.record['peak_memory_gb'])
            hours.append(one.record['hours'])
    entry.hours = mean(hours) if hours else None
    entry.notes += [] if hours else ['not run']
    return entry


def _results(test: str, config: str) -> Iterator[tuple[int, Run, Path, dict]]:
    """Yield seed, run, folder and result of the tests of that name, of runs at the profile's own length."""
    stem = Path(config).stem
    for one in runs('*_rooms_seed[0-9]'):
        for name, result in one.tests.items():
            facts = result['facts']
            if Path(facts['config']).stem == stem and name in (test, f'{test}_{stem}'):
                yield facts['seed'], one, one.folder / name, result


def fada() -> Iterator[str]:
    """Attention per layer with and without FADA, and the sensitivity of scores to its weight and kind."""
    yield from attention_lines([load(path.name) for path in sorted(RESULTS.glob('attention*.json'))])
    heads = ('run', 'weight of what', 'iterations', 'FADA term, first 20 iterations', 'last 20', 'agnostic AP25 / AP50')
    yield from pipes(heads, [[one.name, _weighed(one), str(one.iterations), _term(one, 0), _term(one, -1),
                              _pair(one, 'instance/agnostic_')] for one in segmenting('all24*fada*_rooms_seed0*')])
    yield from readings()
    yield from ('', 'By length of training, class-agnostic AP25 / AP50, and of how many seeds:', '')
    yield from pipes(('iterations', *BY_LENGTH), _lengths())


def readings() -> Iterator[str]:
    """Yield how loud FADA is in each reading of its lost formula, and how many pairs its cost moves."""
    if record := load('gradients.json'):
        yield ''
        yield from pipes(('loss over pairs', 'divided by views', 'gradient on the queries over that of the mask terms'), [
            [one['reduction'], 'yes' if one['per_view'] else 'no', f'{one["to_masks"]:.4f} = 1 / {1 / one["to_masks"]:.0f}']
            for one in record['readings']])
        yield ''
        yield from pipes(('weight of the cost', 'divided by views', 'instances with another query than without it'), [
            [f'{one["weight"]:g}', 'yes' if one['per_view'] else 'no', f'{one["elsewhere"]:.1%}']
            for one in record['costs']])
        yield from ('', f'`{command(record["command"])}`: {record["batches"]} batches, {record["pairs"]} instances.')


def _weighed(one: Run) -> str:
    """Return what a run's own weight of FADA is the weight of, '–' where it has none."""
    kinds = {'model.weights.fada': 'loss and cost', 'model.losses.fada.weight': 'loss alone'}
    return next((kinds[path] for word in one.record['command'] if (path := word.partition('=')[0]) in kinds), '–')


def _lengths() -> Iterator[list[str]]:
    """Yield scores with and without FADA for each length of training."""
    found = {stem: [one for end in ('seed[0-9]', '[0-9]*', 'full') for one in segmenting(f'{stem}_rooms_{end}')]
             for stem in BY_LENGTH}
    for length in sorted({one.iterations for ones in found.values() for one in ones}):
        cells = []
        for ones in found.values():
            same = [one for one in ones if one.iterations == length]
            scores = [_over_seeds(same, f'instance/agnostic_{ap}') for ap in ('AP25', 'AP50')] if same else []
            cells.append(f'{" / ".join(scores)} (n={len(same)})' if same else 'not run')
        yield [str(length), *cells]


def attention_lines(found: list[dict]) -> Iterator[str]:
    """Yield where queries look: mass on the right views layer by layer, more of the last layer; one line per checkpoint."""
    by_name: dict[str, list[dict]] = {}
    for record in found:
        for line in record['layers']:
            by_name.setdefault(line['checkpoint'], []).append(line)
    if not by_name:
        return
    made_by = {name: Path(one['weights']).parent.name for record in found for name, one in record['checkpoints'].items()}
    first = next(iter(by_name.values()))
    yield from pipes(('mass on the right views, layer', *(str(line['layer']) for line in first), 'run'), [
        ['even', *(f'{line["even_view_mass"]:.2f}' for line in first), '–'],
        *([name, *(f'{line["view_mass"]:.2f}' for line in lines), made_by[name]] for name, lines in by_name.items())])
    keys = ('view_mass', 'pixel_mass', 'entropy', 'js')
    yield from ('', *pipes(('last layer', *(key.replace('_', ' ') for key in keys)), [
        ['even', *(f'{first[-1][f"even_{key}"]:.3f}' for key in keys)],
        *([name, *(f'{lines[-1][key]:.3f}' for key in keys)] for name, lines in by_name.items())]), '')
    yield from depth_lines(by_name)


def depth_lines(by_name: dict[str, list[dict]]) -> Iterator[str]:
    """Yield how attention changes with depth, and what the paper says of it (0.A.3) beside that."""
    slopes = {name: {key: depth_slope([line['layer'] for line in lines], [line[key] for line in lines])
                     for key in ('entropy', 'view_mass', 'js')} for name, lines in by_name.items()}
    yield from pipes(('change from the first layer to the last', 'entropy', 'view mass', 'js'), [
        [name, *(f'{value:+.3f}' for value in own.values())] for name, own in slopes.items()])
    verdicts = []
    for pair in BY_DEPTH.items():
        if all(name in slopes for name in pair):
            verdicts += [[f'{" and ".join(pair)}: {verdict.text}', verdict.status, verdict.numbers]
                         for verdict in where_fada_pays.depth_claims(*({0: slopes[name]} for name in pair))]
    yield from ('', *pipes(('claim of the paper', 'here', 'numbers'), verdicts), '') if verdicts else ('',)


def _term(one: Run, place: int) -> str:
    value = one.curve[place].get('loss_fada')
    return '–' if value is None else f'{value:.4f}'


def _over_seeds(found: list[Run], key: str) -> str:
    """Return the mean of a score in percent, and its range where there are several."""
    return spread([100 * one.score(key) for one in found])


def _pair(one: Run, kind: str, test: str = 'test') -> str:
    return ' / '.join(f'{100 * one.score(f"{kind}{ap}", test):.1f}' for ap in ('AP25', 'AP50'))


def _every(lines: list, count: int) -> list:
    """Return at most `count` lines, the last one included."""
    step = -(-len(lines) // count)
    return lines[len(lines) - 1::-step][::-1]


if __name__ == '__main__':
    main()
