"""``tools/test.py``: score a checkpoint on held-out scenes."""

from __future__ import annotations

import argparse
import csv
import json
import math
import time
from collections.abc import Collection
from contextlib import nullcontext
from pathlib import Path

from mmengine.config import Config

from jrs.cli.options import add_config_options, add_copy_option, config_from, say_notes
from jrs.cli.parser import Parser
from jrs.errors import ConfigError
from jrs.launch import add_launcher_option
from jrs.places import AVERAGED_FILE, UNTRAINED, command_words
from jrs.schema import without_teacher

EXAMPLES = """examples:
  python tools/test.py configs/segvggt/all24_fada.py work_dirs/RUN/weights.safetensors --profile rooms
  python tools/test.py configs/segvggt/all24_fada.py untrained --profile rooms        the same model before training
  python tools/test.py CONFIG WEIGHTS --transfer-rules all               one set of predictions, several rules of transfer
  python tools/test.py CONFIG WEIGHTS --transfer-rules vote=any vote=any+superpoint_vote=None depth_tolerance_m=0.05
  python tools/test.py CONFIG WEIGHTS --save-predictions DIR             as files that any evaluation of the benchmark reads
"""
CLASS = 'class/'                                # in the names of per-class metrics


def parser() -> argparse.ArgumentParser:
    """Return the command's options."""
    options = Parser(prog='tools/test.py', description=__doc__, epilog=EXAMPLES,
                     formatter_class=argparse.RawDescriptionHelpFormatter)
    add_config_options(options)
    options.add_argument('checkpoint', help=f'weights (.safetensors, .pth), or the word {UNTRAINED!r}')
    add_copy_option(options)
    options.add_argument('--out', type=Path, help='folder for results.json, results.csv and the matches of each scene '
                         '(instance_matches.npz); default: test beside the checkpoint, of averaged weights test_averaged')
    options.add_argument('--transfer-rules', nargs='+', default=[], metavar='RULE', help='score the same predictions, '
                         'and the oracle, by further rules that bring masks to the mesh: `all` that the transfer offers, or '
                         'what a rule changes of it, argument=value joined by `+`; printed as a table, and `transfer_rules` '
                         'in results.json')
    options.add_argument('--save-predictions', type=Path, metavar='DIR', help='also write what is scored as files of the '
                         "benchmark's format into DIR, a new or empty folder, and each query once into DIR/class_agnostic: "
                         'tools/evaluate.py scores them to the same numbers')
    add_launcher_option(options)
    return options


def main(argv: list[str] | None = None) -> None:
    """Score, print the table; write JSON, CSV, and the matches of scenes that intervals are made of."""
    args = parser().parse_args(argv)
    cfg = config_from(args)
    say_notes(args)
    out = args.out or default_out(args)
    checkpoint = None if args.checkpoint == UNTRAINED else args.checkpoint
    from mmengine.dist import get_rank

    from jrs.engine.processes import end_processes, start_processes
    from jrs.engine.record import git_state
    from jrs.engine.writer import one_writer
    from jrs.report.identity import scoring_identity
    from jrs.report.transfer_rules import text_lines
    origin = dict(identity=scoring_identity(cfg, checkpoint, args.copy), **git_state(),
                  command=command_words('test', argv))
    if args.transfer_rules:
        score_by_rules(cfg, args.transfer_rules)
    if args.save_predictions:
        save_to(cfg, args.save_predictions)
    start_processes(args.launcher, cfg.train.timeout)
    saved = one_writer(args.save_predictions, origin['command']) if args.save_predictions else nullcontext()
    with one_writer(out, origin['command']), saved:
        metrics, facts, record = score(cfg, checkpoint, out, args.launcher, args.copy)
        if get_rank() == 0:
            facts = dict(config=args.config, profile=args.profile, checkpoint=args.checkpoint, seed=cfg.seed, **facts)
            write_results(out, metrics, facts, record | origin)
            if args.save_predictions:
                apart = {key: record[key] for key in ('class_names',) if key in record}
                write_origin(args.save_predictions, dict(facts=facts, scenes=record['scenes'], **apart, **origin))
                print(f'written: {args.save_predictions}: predictions of {len(record["scenes"])} scenes')
            print(format_results(metrics, facts, record.get('class_names', {}).get('novel', ())))
            if record['transfer_rules']:
                print('\n'.join(['', *text_lines(record['transfer_rules']), '']))
            print(f'written: {out / "results.json"}, {out / "results.csv"}')
    end_processes()


def default_out(args: argparse.Namespace) -> Path:
    """Return ``<folder of the checkpoint>/test``, ``test_averaged`` for averaged weights; below outputs/ if untrained."""
    if args.checkpoint == UNTRAINED:
        return Path('outputs') / f'{Path(args.config).stem}_{args.profile}_untrained'
    file = Path(args.checkpoint)
    return file.parent / ('test_averaged' if file.name == AVERAGED_FILE else 'test')


def score_by_rules(cfg: Config, rules: list[str]) -> None:
    """Let the metrics of `cfg` that score instances score them by further rules of transfer; nothing else changes.

    Raises:
        ConfigError: no metric does, or a rule is none of its transfer.
    """
    from jrs.registry import METRICS, build
    for name, metric in instance_metrics(cfg, '--transfer-rules').items():
        metric.rules = [*metric.get('rules', ()), *rules]
        build(METRICS, metric, f'metrics.{name}')              # a wrong rule is refused before the weights are read


def save_to(cfg: Config, folder: Path) -> None:
    """Let the metric of `cfg` that scores instances save the predictions in `folder`.

    Raises:
        ConfigError: no metric does, or several. DataError: the folder is not empty.
    """
    from jrs.io.atomic import refuse_filled
    found = instance_metrics(cfg, '--save-predictions')
    if len(found) > 1:
        names = ', '.join(f'metrics.{name}' for name in found)
        raise ConfigError(f'--save-predictions: {names} would save theirs in one folder; leave one of them, for example '
                          f'--cfg-options metrics.{list(found)[-1]}=None.')
    refuse_filled(folder, '--save-predictions')
    next(iter(found.values())).predictions = str(folder)


def instance_metrics(cfg: Config, option: str) -> dict[str, Config]:
    """Return the metrics of `cfg` that score instances, by name; `option` asks for them.

    Raises:
        ConfigError: there is none.
    """
    from jrs.evaluation.metrics import InstanceAPMetric
    from jrs.registry import METRICS
    found = {name: metric for name, metric in cfg.metrics.items() if metric is not None
             and issubclass(METRICS.lookup(metric['type'], f'metrics.{name}'), InstanceAPMetric)}
    if not found:
        raise ConfigError(f'{option}: this config scores no instances: none of its metrics is an InstanceAPMetric.')
    return found


def score(cfg: Config, checkpoint: str | None, out: Path, launcher: str | None = None,
          copy: str | None = None) -> tuple[dict, dict, dict]:
    """Score a checkpoint (None: the untrained model), or a `copy` in it, on `cfg.test_dataset`.

    Returns:
        The metrics; by which rules they were made; which scenes they are of, and the hours and memory that they took.
    """
    from jrs.engine.build import (
        build_dataset,
        build_evaluator,
        build_model,
        check_ready,
        maps_of_run,
        patch_size_of,
        scoring_loader,
        start_processes,
    )
    from jrs.engine.checkpoint import use_atomic_files
    from jrs.engine.console import JrsRunner
    from jrs.engine.data import left_aside, say_data
    from jrs.engine.device import device_record
    from jrs.engine.inference import load_model
    from jrs.engine.loading import explaining_lost_workers
    from jrs.engine.processes import Watchdog, naming_lost_processes
    from jrs.engine.usage import peak_memory_gb
    from jrs.engine.words import check_encoder, names_in, say_names, tell_metrics, trained_names
    from jrs.evaluation.metrics import RULE
    from jrs.io.weights import read_metadata
    cfg.weights = None
    cfg.model = without_teacher(cfg.model)
    ready = check_ready(cfg, 'test_dataset')
    use_atomic_files()
    place = start_processes(launcher, cfg.train.timeout)
    say_data(cfg, ready)
    import torch
    start = time.monotonic()
    torch.manual_seed(cfg.seed)
    model = build_model(cfg) if checkpoint is None else load_model(cfg, checkpoint, copy)
    evaluator = build_evaluator(cfg.metrics)
    dataset = build_dataset(cfg, 'test_dataset', maps_of_run(model, evaluator.metrics), patch_size_of(model))
    card = {} if checkpoint is None else read_metadata(Path(checkpoint))
    check_encoder(model, card)
    say_names(model, names_in(dataset))
    tell_metrics(evaluator.metrics, model, trained_names(cfg, card))
    out.mkdir(parents=True, exist_ok=True)
    runner = JrsRunner(
        model=model, work_dir=str(out / 'log'), default_scope='jrs', launcher=place.launcher, test_cfg=dict(),
        test_dataloader=scoring_loader(dataset, cfg.train.workers),
        test_evaluator=evaluator, log_processor=dict(by_epoch=False), randomness=dict(seed=cfg.seed),
        default_hooks=dict(logger=dict(type='ProgressLog'), needs=dict(type='MetricNeeds'),
                           plugins=dict(type='EvaluationHook'), heartbeat=dict(type='Heartbeat'), checkpoint=None,
                           sampler_seed=None),
        cfg=Config(dict(cfg._cfg_dict)))
    with Watchdog(cfg.train.timeout) as watchdog, naming_lost_processes(watchdog), \
            explaining_lost_workers(cfg.train.workers):
        metrics = runner.test()
    metrics = {name: value for name, value in metrics.items() if f'/{RULE}' not in name}       # they make `transfer_rules`
    apart = [metric.names_apart for metric in evaluator.metrics if getattr(metric, 'names_apart', None)]
    record = dict(class_names=apart[0]) if apart else {}
    record |= dict(device_settings=device_record(cfg), hours=(time.monotonic() - start) / 3600,
                   scenes=getattr(dataset, 'metainfo', {}).get('scene_names', []), left_out=left_aside(dataset),
                   transfer_rules=[row for metric in evaluator.metrics for row in getattr(metric, 'by_rule', ())],
                   kept={metric.prefix: metric.kept for metric in evaluator.metrics if getattr(metric, 'kept', None)},
                   peak_memory_gb=peak_memory_gb(next(model.parameters()).device))
    return metrics, evaluator.describe(), record


def write_results(out: Path, metrics: dict[str, float], facts: dict, record: dict) -> None:
    """Write `results.json` (NaN as null; with the record of the run), `results.csv` and matches of scenes, atomically."""
    from jrs.evaluation.kept import MATCHES_FILE, write_matches
    from jrs.io.atomic import atomic_write
    for prefix, kept in record.pop('kept', {}).items():
        write_matches(out / f'{prefix}_{MATCHES_FILE}', kept)
    plain = _without_nan(metrics)
    rows = [row | {'numbers': _without_nan(row['numbers'])} for row in record.pop('transfer_rules', ())]
    record |= {'transfer_rules': rows} if rows else {}
    with atomic_write(out / 'results.json', 'w') as file:
        json.dump(dict(facts=facts, metrics=plain, **record), file, indent=1)
    with atomic_write(out / 'results.csv', 'w') as file:
        writer = csv.writer(file)
        writer.writerow(['metric', 'value', *facts])
        writer.writerows([name, value, *facts.values()] for name, value in plain.items())


def write_origin(folder: Path, origin: dict) -> None:
    """Write `predictions.json` beside saved predictions: what made them, and that all of them are there."""
    from jrs.io.atomic import atomic_write
    from jrs.io.submission import ORIGIN
    with atomic_write(folder / ORIGIN, 'w') as file:
        json.dump(origin, file, indent=1)


def format_results(metrics: dict[str, float], facts: dict, novel: Collection[str] = ()) -> str:
    """Return the table that is printed: how the numbers were made, one line per class, `novel` ones apart, then means."""
    means = [f'{name:44} {value:10.4f}' for name, value in metrics.items() if CLASS not in name]
    rows: dict[str, dict[str, float]] = {}
    for name, value in metrics.items():
        if CLASS in name and not math.isnan(value):
            class_name, _, kind = name.partition(CLASS)[2].rpartition('/')
            rows.setdefault(class_name, {})[kind] = value
    kinds = list(dict.fromkeys(kind for row in rows.values() for kind in row))
    lines = {name: ' '.join([f'{name:32}', *(f'{row.get(kind, math.nan):8.4f}' for kind in kinds)])
             for name, row in rows.items()}
    head = [f'{"class (with ground truth)":32} ' + ' '.join(f'{kind:>8}' for kind in kinds)] if rows else []
    classes = [line for name, line in lines.items() if name not in novel]
    apart = [line for name, line in lines.items() if name in novel]
    classes += ['', f'{"novel: no training saw the name":32}', *apart] if apart else []
    return '\n'.join(['', *(f'{name}: {value}' for name, value in facts.items()), '', *head, *classes, '', *means])


def _without_nan(numbers: dict[str, float]) -> dict[str, float | None]:
    return {name: None if math.isnan(value) else value for name, value in numbers.items()}
