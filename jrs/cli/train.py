"""``tools/train.py``: train an experiment."""

from __future__ import annotations

import argparse
import signal
import sys
from pathlib import Path

from mmengine.config import Config

from jrs.cli.options import add_config_options, config_from, notes_of, overrides_of, say_notes
from jrs.cli.parser import Parser
from jrs.config import bases_of, resolve_config
from jrs.errors import DataError
from jrs.io.names import is_text
from jrs.launch import add_launcher_option, refuse_several_processes
from jrs.places import AVERAGED_FILE, command_words
from jrs.report.differences import difference_lines
from jrs.report.naming import default_work_dir

EXAMPLES = """examples:
  python tools/train.py configs/segvggt/all24_fada.py                              the paper's setting; 8 GPUs: see below
  python tools/train.py configs/segvggt/all24_fada.py --profile rooms              built-in rooms, on a CPU
  python tools/train.py configs/segvggt/all24_fada.py --profile rooms --resume     go on after a kill
  torchrun --nproc_per_node 2 tools/train.py configs/segvggt/all24_fada.py --profile debug
  torchrun --nproc_per_node 8 tools/train.py ... --cfg-options train.sharding=fully_shard
                                                                  weights, gradients and moments in parts; DDP without it
  python tools/train.py configs/segvggt/all24_fada.py --needs                      what that takes, before anything is there
  python tools/train.py work_dirs/RUN/config.py --replay work_dirs/RUN/nonfinite/iter_12_0.pt
                                                                  the step that met NaN, alone

torchrun and srun are recognised by what they set in the environment; a shell or batch script of Slurm is one process. A run
folder has one writer: a second one is refused, one that was killed is taken over from.

SIGTERM and Ctrl-C finish the step, or end a wait for data, save, print the command that goes on, and exit with 143 and 130;
a second one ends at once. torchrun passes signals on, waits 30 s for the step, and exits with 1, whatever its processes exit
with. Of several processes one that dies, or takes more than train.timeout seconds for a step, ends all, and is named; one
process alone ends so, too.
train.skip_nonfinite=N leaves out up to N steps in which a loss, a matching cost or a gradient is not finite, instead of
stopping; each leaves its batch and weights in work_dirs/RUN/nonfinite.

An iteration is one update of the weights by batches.slots slots of at most batches.max_images images each (the paper: 8, one
per GPU). The processes share the slots, each takes its part one after another: 1 process x 8, 2 x 4, 4 x 2 and 8 x 1 are the
same training within 1e-5, and a run may go on with another of these numbers. A number that does not divide the slots is
refused; --cfg-options batches.slots=N trains with another update, which is another experiment.
"""


def parser() -> argparse.ArgumentParser:
    """Return the command's options."""
    options = Parser(prog='tools/train.py', description=__doc__, epilog=EXAMPLES,
                     formatter_class=argparse.RawDescriptionHelpFormatter)
    add_config_options(options)
    options.add_argument('--work-dir', type=Path, help='run folder; default work_dirs/<experiment>_<profile>_seed<seed> '
                         'with the other overrides behind it')
    options.add_argument('--resume', action='store_true', help='go on from the newest checkpoint that loads')
    options.add_argument('--replay', type=Path, metavar='FILE', help='repeat one step that training kept because something '
                         'was not finite, instead of training; CONFIG is config.py of that run')
    add_launcher_option(options)
    needs = options.add_argument_group('what a run needs')
    needs.add_argument('--needs', action='store_true', help='say what this training needs in memory, disk, data and hours, '
                       'and how each is known, instead of training; neither data nor weights need be there')
    needs.add_argument('--processes', type=int, metavar='N', help='that would train together on one machine, a card each; '
                       'default: one per slot of an update')
    needs.add_argument('--step-seconds', type=float, metavar='S', help='of one slot, as tools/benchmark.py --train measured '
                       'them')
    return options


def main(argv: list[str] | None = None) -> int:
    """Train; leaves checkpoints, logs, `config.py`, `diff.txt`, `run.json`, `identity.json`, `weights.safetensors`.

    A hook of type `AveragedWeights` also leaves `weights_averaged.safetensors`.

    Returns:
        0, or 128 plus the number of the signal that stopped it.
    """
    args = parser().parse_args(argv)
    cfg = config_from(args)
    say_notes(args)
    if args.needs:
        return say_needs(args, cfg)
    if args.replay:
        refuse_several_processes('tools/train.py --replay')
        return replay_step(cfg, args.replay)
    work_dir = args.work_dir or default_work_dir(args.config, args.profile, cfg.seed, args.cfg_options)
    refuse_bytes(args, work_dir)
    command = command_words('train', argv)
    from jrs.engine.disk import explaining_full_disks
    from jrs.engine.processes import end_processes, start_processes
    from jrs.engine.writer import one_writer
    start_processes(args.launcher, cfg.train.timeout)
    with explaining_full_disks(work_dir), one_writer(work_dir, command):
        code = train(args, cfg, work_dir, command)
    end_processes()
    return code


def refuse_bytes(args: argparse.Namespace, work_dir: Path) -> None:
    """Raise a DataError where a path of the run has bytes that are no text: its config and TensorBoard's files hold text."""
    options = [('--cfg-options', item) for item in args.cfg_options]
    for what, given in (('--work-dir', str(work_dir.resolve())), ('CONFIG', args.config), *options):
        if not is_text(given):
            raise DataError(f'{what} {given!r} has bytes that are no text (UTF-8), which no file of a run can hold. Rename '
                            'the folder, or name it by a link.')


def train(args: argparse.Namespace, cfg: Config, work_dir: Path, command: list[str]) -> int:
    """Train in a folder that nobody else writes to; returns what `main` does."""
    from mmengine.device import get_device

    from jrs.engine.build import build_runner
    from jrs.engine.checkpoint import checkpoints
    from jrs.engine.memory import kept_allocations
    if not args.resume and checkpoints(work_dir):
        raise DataError(f'{work_dir} holds a run already. Add --resume to go on, or choose another --work-dir.')
    if get_device() == 'cpu':
        kept_allocations()
    runner = build_runner(cfg, work_dir, args.resume, args.launcher)
    if runner.rank == 0:
        record_start(args, cfg, runner, command)
    runner.train()
    if runner.train_loop.stopped_by:
        return say_how_to_go_on(runner, command)
    save_result(runner, cfg, work_dir)
    return 0


def record_start(args: argparse.Namespace, cfg: Config, runner, command: list[str]) -> None:
    """Write what the run is: its config, identity and record, which is kept up to date from then on."""
    from jrs.engine.device import device_record
    from jrs.engine.record import RunRecord, start_record
    from jrs.engine.update import split_of
    from jrs.report.identity import training_identity, write_identity
    work_dir = Path(runner.work_dir)
    write_config(args, runner.cfg, work_dir)
    write_identity(work_dir, training_identity(cfg), args.resume)
    settings = dict(device_record(cfg), recomputation=runner.recomputation)
    start_record(work_dir, command, runner.model, args.resume, split_of(cfg, runner.world_size), settings)
    runner.register_hook(RunRecord(cfg.train.save_every))


def say_how_to_go_on(runner, command: list[str]) -> int:
    """Name the saved iteration and the command that resumes; return the exit code of the signal that stopped the run."""
    from jrs.engine.stop import resume_command
    number = runner.train_loop.stopped_by
    if runner.rank == 0:
        state = 'its state is saved. To go on' if runner.iter else 'there is no state to go on from. To start again'
        print(f'stopped by {signal.Signals(number).name} after iteration {runner.iter} of {runner.max_iters}; {state}:\n'
              f'  {resume_command(command, saved=bool(runner.iter))}', file=sys.stderr)
    return 128 + number


def say_needs(args: argparse.Namespace, cfg: Config) -> int:
    """Print what the training needs, as Markdown."""
    from jrs.engine.needs import needs_of, needs_page
    from jrs.engine.update import update_of
    processes = args.processes or update_of(cfg).slots
    number = '1 process' if processes == 1 else f'{processes} processes'
    words = f'`{args.config}`, profile `{args.profile}`, {number} on one machine:'
    print(needs_page(words, needs_of(cfg, processes, args.step_seconds)), end='')
    return 0


def replay_step(cfg: Config, file: Path) -> int:
    """Repeat one step that training has kept; what is not finite raises the error that stopped the run."""
    from jrs.engine.replay import replay
    terms = replay(cfg, file)
    print('\n'.join([f'{name:32} {value:12.6g}' for name, value in terms.items()]))
    print(f'all terms and all gradients of {file} are finite')
    return 0


def write_config(args: argparse.Namespace, cfg: Config, work_dir: Path) -> None:
    """Save the resolved config, and in `diff.txt` how it came about."""
    from jrs.io.atomic import atomic_write
    for name, text in (('config.py', cfg.pretty_text), ('diff.txt', origin_text(args, cfg))):
        with atomic_write(work_dir / name, 'w') as file:
            file.write(text)


def origin_text(args: argparse.Namespace, cfg: Config) -> str:
    """Return what the experiment changes in the one it inherits from, then the command line, then hooks of plugins."""
    plain, bases = resolve_config(args.config, args.profile), bases_of(args.config)
    lines = [f'profile {args.profile}', *notes_of(args), f'{args.config} is a complete experiment']
    if len(bases) == 1:
        parent = resolve_config(bases[0], args.profile)
        lines[-1:] = [f'- {bases[0]}', f'+ {args.config}', *difference_lines(parent._cfg_dict, plain._cfg_dict)]
    given = resolve_config(args.config, args.profile, overrides_of(args))
    changed = list(difference_lines(plain._cfg_dict, given._cfg_dict))
    adjusted = list(difference_lines(given._cfg_dict, cfg._cfg_dict))
    by_plugins = ['', 'jrs_adjust_config of plugins', *adjusted] if adjusted else []
    return '\n'.join([*lines, '', '--cfg-options', *(changed or ['no difference']), *by_plugins, ''])


def label_space(cfg: Config, dataset) -> dict:
    """Return benchmark and class names of the training data, for the card: what a class index of the weights means."""
    told = getattr(dataset, 'metainfo', {})
    benchmark = told.get('benchmark', cfg.train_dataset.get('benchmark'))
    return dict(benchmark=benchmark) | (dict(class_names=list(told['classes'])) if 'classes' in told else {})


def save_result(runner, cfg: Config, work_dir: Path) -> None:
    """Write `weights.safetensors` with a card in its metadata, for tools/test.py and tools/infer.py; averaged ones beside.

    Every process calls this: a sharded model has its weights in all of them; the first one writes.
    """
    from jrs.engine.averaging import AveragedWeights
    from jrs.engine.record import finish_record, read_record
    from jrs.engine.sharding import whole
    from jrs.engine.update import update_of
    from jrs.engine.words import word_facts
    from jrs.io.weights import save_weights
    model = getattr(runner.model, 'module', runner.model)
    state = whole(model.state_dict())
    if runner.rank != 0:
        return
    code = read_record(work_dir)                               # of the start: files may have changed since
    facts = cfg.experiment
    card = dict(origin=f'trained by jrs, {code["commit"]}{"+changes" if code["dirty"] else ""}',
                licence=facts.weights_licence, trained_on=facts.trained_on, experiment=Path(cfg.filename).stem,
                iterations=cfg.train.iterations, update=str(update_of(cfg)), seed=cfg.seed,
                num_classes=cfg.model.get('num_classes', 0), **label_space(cfg, runner.train_dataloader.dataset),
                **word_facts(runner.model))
    save_weights(state, work_dir / 'weights.safetensors', card)
    runner.logger.info(f'weights: {work_dir / "weights.safetensors"}')
    for hook in (hook for hook in runner.hooks if isinstance(hook, AveragedWeights)):
        save_weights(hook.state(model), work_dir / AVERAGED_FILE, card | dict(averaged=hook.says()))
        runner.logger.info(f'averaged weights, {hook.says()}: {work_dir / AVERAGED_FILE}')
    finish_record(work_dir)
