"""``tools/reproduce.py``: the paper's tables, filled with our numbers; trains and scores what is not there yet."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from jrs.cli.parser import Parser
from jrs.errors import ConfigError, DataError, did_you_mean
from jrs.places import command_words, own_config, project

# Planning reads configs, which brings torch: imported where it is needed, so that `--help` does not take seconds.
if TYPE_CHECKING:
    from jrs.report.plan import Plan, Planner, Settings
    from jrs.report.runner import Runner
    from jrs.report.tables import Row, Table
    from jrs.report.timings import GivenTiming
    from jrs.report.work import Work

EXAMPLES = """examples:
  python tools/reproduce.py --table 3 --dry-run                                what the table needs, and what is missing
  python tools/reproduce.py --table 3 --profile rooms --seeds 0 1 2            built-in rooms, three seeds, on a CPU
  python tools/reproduce.py --table 1 2 3 4 7 8 9 --launcher pytorch --processes 8
  python tools/reproduce.py --table 3 --launcher slurm --processes 8           writes batch scripts, prints sbatch lines;
                                            a job that is requeued, or submitted again after scancel, goes on where it was
  python tools/reproduce.py --table 3 --profile rooms --configs my_row.py      a row of your own in the table
  python tools/reproduce.py --table 1 --weights all24_fada=segvggt_scannet200.pt all24_fada_scannetv2=segvggt_scannetv2.pt \\
                            --no-training              published weights, in rows of their own
  python tools/reproduce.py --table 6 --timings iggt.yaml                      times measured elsewhere, labelled so
  python tools/reproduce.py --configs my_row.py --profile rooms --vary train.iterations=500,1000,2000

A run that is finished is not run again: it is known by its settings, code, plugins, weights, data and seed (identity.json in
its folder). One that was cut off is resumed. One that differs is listed, moved aside and run again; where only code differs,
--any-code uses it. Trainings are shared by all rows, columns and tables that need the same weights.

exit codes: 0 every cell that was asked for is filled, or --dry-run, or the scripts of --launcher slurm are written; 1 a run
failed; 2 something that cannot be meant, before anything ran; 3 nothing failed, and for some cells something is missing; 130
and 143 stopped by Ctrl-C and SIGTERM.
"""
FAILED, INCOMPLETE = 1, 3                      # exit codes


def parser() -> argparse.ArgumentParser:
    """Return the command's options."""
    options = Parser(prog='tools/reproduce.py', description=__doc__, epilog=EXAMPLES,
                     formatter_class=argparse.RawDescriptionHelpFormatter)
    what = options.add_argument_group('what')
    what.add_argument('--table', type=_table, nargs='+', default=[], metavar='N', help='tables of the paper, 1 to 9; '
                      'A3: how attention changes with depth (0.A.3)')
    what.add_argument('--rows', nargs='+', default=[], metavar='NAME', help='of the paper only these: part of the name of '
                      'a row, or the name of its config')
    what.add_argument('--configs', nargs='+', default=[], metavar='FILE', help='further rows: any configs, by path or name; '
                      'without --table a table of their own')
    what.add_argument('--plugins', nargs='+', default=[], metavar='NAME', help='plugins that add rows or configs')
    what.add_argument('--profile', nargs='+', default=['paper'], help='scale: paper, rooms, debug; several are compared')
    what.add_argument('--seeds', type=int, nargs='+', default=[0], help='each row is trained once per seed '
                      '(default: 0); claims of the paper are undecided with fewer than two')
    what.add_argument('--cfg-options', nargs='+', default=[], metavar='a.b=c', help='overrides of every run')
    what.add_argument('--weights', nargs='+', action='extend', default=[], metavar='ROW=FILE', help='published weights that '
                      'fill a row, beside what is trained here: ROW is the name of its config, or (part of) its own')
    what.add_argument('--vary', nargs='+', default=[], metavar='a.b=c,d', help='a run per value, for every combination')
    how = options.add_argument_group('how')
    how.add_argument('--dry-run', action='store_true', help='list what can run, with its commands, what is finished, and '
                     'each kind of gap with how to fill it; run nothing')
    how.add_argument('--commands', action='store_true', help='with --dry-run: also every cell that cannot run yet, and its '
                     'commands')
    how.add_argument('--no-training', action='store_true', help='train nothing: finished runs, --weights and files '
                     'fill rows')
    how.add_argument('--any-code', action='store_true', help='use finished runs that other code made; the table says so')
    how.add_argument('--jobs', type=int, default=1, help='runs side by side; more than one: one thread each')
    how.add_argument('--launcher', choices=('none', 'pytorch', 'slurm'), default='none')
    how.add_argument('--processes', type=int, default=1, help='of one run at most, for --launcher: a training takes as many '
                     'of them as share the slots of its update equally, each the same number of slots one after another')
    how.add_argument('--slurm-gpus', type=int, metavar='N', help='GPUs that a job of --launcher slurm asks for per task; '
                     'default: 1 where sinfo lists any GPU or is not there, else 0')
    how.add_argument('--work-dirs', type=Path, default=Path('work_dirs'), help='root of the run folders')
    how.add_argument('--predictions', type=Path, default=Path('predictions'), help="other methods' prediction files: "
                     '<method>/<benchmark>/<scene>.txt, and ground_truth/<benchmark>/<scene>.txt, which '
                     'tools/evaluate.py export-ground-truth writes')
    how.add_argument('--timings', type=Path, nargs='+', default=[], metavar='FILE', help="times of Tables 5 and 6 that were "
                     'measured elsewhere, as YAML: see jrs/report/timings.py')
    how.add_argument('--out', type=Path, help='folder of the report; default outputs/reproduce/<tables>_<profile>')
    how.add_argument('--scene-list', type=Path, metavar='FILE', help='write a list of ten scenes, <split>_random10.txt '
                     'beside <split>.txt, and stop')
    return options


def main(argv: list[str] | None = None) -> int:
    """Plan, run what is missing, write the report; returns the exit code."""
    args = parser().parse_args(argv)
    _check(args)
    from jrs.engine.writer import one_writer
    from jrs.report.plan import Planner, write_subset
    from jrs.report.runner import gpus_of_cluster, write_slurm_jobs
    if args.scene_list is not None:
        print(f'{args.scene_list}: {", ".join(write_subset(args.scene_list))}')
        return 0
    settings = settings_from(args)
    tables = tables_from(args, settings.timings)
    plan = Planner(settings).plan(tables)
    if args.dry_run:
        print('\n'.join(dry_run(plan, args)))
        return 0
    out = args.out or Path('outputs/reproduce') / '_'.join([*(table.name for table in tables), *args.profile])
    with one_writer(out, command_words('reproduce', argv)):
        runner = _runner(args, out)
        plan = prepare(plan, Planner(settings), tables, runner)
        if args.launcher == 'slurm':
            gpus = gpus_of_cluster(runner.say) if args.slurm_gpus is None else args.slurm_gpus
            scripts = write_slurm_jobs(plan.chains(), runner, out / 'slurm', gpus)
            print('\n'.join(f'sbatch {script}' for script in scripts) or 'nothing is left to run')
        else:
            runner.run(plan.chains())
        return report(plan, runner, args, out)


def settings_from(args: argparse.Namespace) -> Settings:
    """Return what all runs share."""
    import torch

    from jrs.report.plan import Settings, variants
    from jrs.report.released import read_released
    from jrs.report.timings import read_timings
    return Settings(seeds=tuple(dict.fromkeys(args.seeds)), work_dirs=args.work_dirs, predictions=args.predictions,
                    variants=variants(args.profile, args.cfg_options, args.vary), jobs=args.jobs,
                    accelerator=torch.cuda.is_available(), timings=read_timings(args.timings),
                    released=read_released(args.weights), train=not args.no_training)


def tables_from(args: argparse.Namespace, timings: Mapping[tuple[int, str], GivenTiming]) -> list[Table]:
    """Return the tables with the rows that were asked for, and those that only `timings` have.

    Raises:
        ConfigError: no such table, config or row, or no table that shows any of the times.
    """
    from jrs.config import read_config
    from jrs.plugins import hook_of, load_plugins
    from jrs.report.tables import extra_row, load_tables, sweep_table
    from jrs.report.timings import with_new_rows
    if args.configs and 5 in args.table:
        raise ConfigError('Table 5 is of one experiment. For another: tools/benchmark.py --table 5 --config FILE; or a row '
                          'of Table 6: --table 6 --configs FILE.')
    load_plugins(args.plugins)
    roots, rows_of = (hook_of(name, args.plugins) for name in ('jrs_config_roots', 'jrs_table_rows'))
    files = [find_config(name, [Path(root) for folders in roots() for root in folders]) for name in args.configs]
    tables = load_tables(args.table) or [sweep_table([])]
    shown = {table for table, _ in timings}
    if timings and not shown & set(args.table):
        raise ConfigError(f'--timings: the files are of table {", ".join(map(str, sorted(shown)))}, which is not among '
                          '--table.')
    for table in tables:
        table.rows = with_new_rows(table, timings.values())
        found = [] if table.id is None else [row for rows in rows_of(table=table.id) for row in rows]
        named = [(Path(file).stem, file) for file in files] + [(row['name'], row['config']) for row in found]
        table.rows += [extra_row(table, name, file, read_config(file).test_dataset.benchmark) for name, file in named]
    return select_rows(tables, args.rows)


def find_config(name: str, roots: list[Path]) -> str:
    """Return the path of a config given by path, or by name below configs/ or a plugin's folder of configs."""
    from jrs.report.work import shown
    if Path(name).is_file():
        return name
    if (own := own_config(name)) is not None:
        return shown(own)
    known = {path.stem: path for root in (project() / 'configs', *roots) for path in sorted(root.rglob('*.py'))}
    if Path(name).name != name or Path(name).stem not in known:
        raise ConfigError(f'no config {name!r}.{did_you_mean(Path(name).stem, known)}')
    return shown(known[Path(name).stem])


def select_rows(tables: list[Table], wanted: list[str]) -> list[Table]:
    """Keep the rows whose name contains one of `wanted`, or whose config is called so; all when nothing is wanted.

    Rows that are not the paper's were asked for by name: they stay.
    """
    def matches(row: Row, text: str) -> bool:
        return text.casefold() in row.label.casefold() or text in {Path(config).stem for config in row.configs.values()}
    names = [row.label for table in tables for row in table.rows]
    for text in wanted:
        if not any(matches(row, text) for table in tables for row in table.rows):
            raise ConfigError(f'--rows: no row {text!r}.{did_you_mean(text, names)}')
    def stays(row: Row) -> bool:
        return not wanted or row.kind == 'extra' or any(matches(row, text) for text in wanted)
    kept = [replace(table, rows=[row for row in table.rows if stays(row)]) for table in tables]
    return [table for table in kept if table.rows]


def prepare(plan: Plan, again: Planner, tables: list[Table], runner: Runner) -> Plan:
    """Make the data that the plan lacks, and return the plan with them.

    Raises:
        DataError: it could not be made.
    """
    needed = plan.preparations if any(map(runner.missing, plan.chains())) else []
    for preparation in needed:
        runner.run([[preparation]])
    for preparation in needed:
        if id(preparation) in runner.failures:
            raise DataError(f'{preparation.title}: {runner.failures[id(preparation)]}')
    return again.plan(tables) if needed else plan


def dry_run(plan: Plan, args: argparse.Namespace) -> list[str]:
    """Return what would be run, what is finished, and each kind of gap."""
    from jrs.report.dry_run import DryRun, screen_width
    from jrs.report.work import Submission, typed_words

    def command(work: Work) -> list[str]:
        nothing = isinstance(work, Submission) and work.gaps
        return [] if nothing else typed_words(_command(work, args))

    def note(work: Work) -> str:
        fewer = work.processes_within(args.processes)
        if args.launcher == 'none' or fewer == args.processes:
            return ''
        return f' ({fewer} of {args.processes} processes: they share {work.update} equally)'

    told = DryRun(plan, _runner(args, Path()).missing, command, note, args.any_code, screen_width())
    return told.lines(args.commands)


def report(plan: Plan, runner: Runner, args: argparse.Namespace, out: Path) -> int:
    """Write the report; returns 1 when a run failed, 3 when something is missing for a cell, else 0."""
    from jrs.engine.record import git_state
    from jrs.report.render import sheets, write_report
    from jrs.report.results import collect
    entries = collect(plan, runner.failures, args.any_code)
    state = git_state()
    overrides = {'overrides': ' '.join(args.cfg_options)} if args.cfg_options else {}
    facts = dict(profile=', '.join(args.profile), seeds=' '.join(map(str, args.seeds)),
                 code=f'{state["commit"]}{"+changes" if state["dirty"] else ""}', runs=args.work_dirs, **overrides)
    paths = write_report(out, sheets(entries), facts)
    for entry in entries:
        filled = [number for number in entry.numbers.values() if number.values]
        numbers = '  '.join(f'{number.column.title} {number.ours}' for number in filled)
        print(f'{entry.table.title}: {", ".join(entry.cells)}: {numbers or "; ".join(entry.notes)[:160]}')
    for fault in runner.failures.values():
        print(f'failed: {fault}', file=sys.stderr)
    print(f'written: {", ".join(map(str, paths))}')
    if runner.failures:
        return FAILED
    unfilled = sum(not cell.filled(args.any_code) and not cell.left_out for cell in plan.cells)
    if unfilled:
        print(f'{unfilled} of {len(plan.cells)} cells are not filled: the report says why, --dry-run how to fill them',
              file=sys.stderr)
    return INCOMPLETE if unfilled else 0


def _table(text: str) -> int | str:
    """Return the id of a table as `paper_tables.yaml` has it."""
    return int(text) if text.isdecimal() else text.upper()


def _command(work: Work, args: argparse.Namespace) -> list[str]:
    from jrs.report.work import command_line
    return command_line(work.words(args.any_code), args.launcher, work.processes_within(args.processes))


def _runner(args: argparse.Namespace, out: Path) -> Runner:
    from jrs.report.runner import Runner
    one_thread = args.jobs * args.processes > 1 or 'paper' not in args.profile and 'OMP_NUM_THREADS' not in os.environ
    return Runner(launcher=args.launcher, processes=args.processes, jobs=args.jobs, one_thread=one_thread,
                  any_code=args.any_code, logs=out / 'logs', say=partial(print, flush=True))


def _check(args: argparse.Namespace) -> None:
    """Refuse what cannot be meant."""
    if not args.table and not args.configs and args.scene_list is None:
        raise ConfigError('name what to fill: --table N, or --configs FILE for a table of your own.')
    if min(args.jobs, args.processes) < 1:
        raise ConfigError(f'--jobs and --processes must be at least 1, got {args.jobs} and {args.processes}.')
    if (args.slurm_gpus or 0) < 0:
        raise ConfigError(f'--slurm-gpus must be at least 0, got {args.slurm_gpus}.')
    if min(args.seeds) < 0:
        raise ConfigError(f'--seeds must be whole numbers of at least 0, got {args.seeds}.')
