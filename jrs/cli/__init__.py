"""Commands: one module per command with `main(argv)`; `tools/NAME.py` and an installed `jrs NAME` both call it."""

from __future__ import annotations

import importlib
import sys
import traceback
from collections.abc import Callable
from functools import partial

from jrs.cli.output import while_read
from jrs.errors import JrsError, PluginError, did_you_mean
from jrs.io.names import is_about_a_name, print_any_name, readable
from jrs.launch import refuse_several_processes
from jrs.opencv import explained
from jrs.places import typed

COMMANDS = {
    'train': 'train an experiment config',
    'test': 'score a checkpoint on held-out scenes, with the oracle beside it',
    'infer': 'photos or a video -> cameras, depth, cloud, instances, report',
    'view': 'results in a browser: clouds, cameras, instances, two side by side; own photos',
    'prepare': 'raw scans, built-in rooms, photos or a video -> scene folders; check a scene folder',
    'convert': 'official checkpoints -> one safetensors file with its licence; checks of key lists',
    'vocabulary': 'names -> a vocabulary file with text embeddings, for models whose classes are words',
    'demo': 'rooms, training, scores and a report, in a quarter of an hour',
    'reproduce': 'the tables of the paper, filled: trains and scores what is missing',
    'evaluate': "score anybody's prediction files",
    'attention': 'where the queries of instances look: maps, and mass per layer on their views and pixels',
    'figures': 'Figures 3 to 7 of the paper, from checkpoints, scenes and prediction files; print size, with numbers',
    'benchmark': 'time and memory of inference and training, beside the paper',
    'print_config': 'an experiment with everything it inherits, or what differs from another',
    'compare_runs': 'training runs side by side: curves, scores, configs, time and memory',
    'plugins': 'list plugins, start a new one, check one',
    'configs': 'the experiments that can be named, and the table and row each makes',
    'completion': 'a script by which bash, zsh or fish completes commands, options and experiments',
    'init': 'start a project of your own: a config, a plugin with its test, a README',
}
EXIT_CODES = """exit codes
  0    done
  1    what was checked or run has faults (plugins check, convert --keys, reproduce), or an error of the program, which shows
       its traceback
  2    what was given cannot be done; the message says what can
  3    reproduce: cells of the tables are not filled, the report says why
  130  Ctrl-C; 143  SIGTERM: a training has saved its state and says how to go on
  137  killed, mostly for want of memory
  141  the reader of the output left"""
LAUNCHED = ('train', 'test')                    # several processes can run these together; they have --launcher


def main(argv: list[str] | None = None) -> int:
    """Run ``jrs COMMAND ...``; returns the exit code."""
    argv = sys.argv[1:] if argv is None else argv
    if not argv or argv[0] in ('-h', '--help'):
        return while_read(partial(_say_usage, 0 if argv else 2))
    if argv[0] not in COMMANDS:
        print(f'jrs has no command {argv[0]!r}.{did_you_mean(argv[0], COMMANDS)}', file=sys.stderr)
        return 2
    return while_read(partial(_run, argv[0], partial(_imported, argv[0]), argv[1:]))


def run(command: Callable[[list[str] | None], int | None], argv: list[str] | None = None) -> int:
    """Run a command's `main`; an error that a user can act on is printed without traceback, exit code 2.

    A plugin that fails shows its own traceback: its author is the one who can act. A reader of the output that leaves early
    ends the command (`while_read`).
    """
    return while_read(partial(_run, command.__module__.rpartition('.')[2], lambda: command, argv))


def _say_usage(code: int) -> int:
    lines = [f'  {name:13} {text}' for name, text in COMMANDS.items()]
    print('usage: jrs COMMAND ...\n\n' + '\n'.join(lines) + '\n\n`jrs COMMAND --help` says more.\n\n' + EXIT_CODES)
    return code


def _imported(name: str) -> Callable[[list[str] | None], int | None]:
    return importlib.import_module(f'jrs.cli.{name}').main


def _run(name: str, command: Callable[[], Callable], argv: list[str] | None) -> int:
    print_any_name()
    try:
        if name not in LAUNCHED:
            refuse_several_processes(f'tools/{name}.py')
        return command()(argv) or 0
    except JrsError as error:
        if isinstance(error, PluginError) and error.__cause__ is not None:
            traceback.print_exception(error.__cause__)
        return _refuse(error)
    except ImportError as error:                                       # most commands import OpenCV when they run
        cure = explained(error)
        if cure is error:
            raise
        return _refuse(cure)
    except OSError as error:
        if not is_about_a_name(error):
            raise
        print(f'DataError: {readable(str(error))}. Choose a shorter name, or another folder.', file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print('interrupted', file=sys.stderr)
        return 130


def _refuse(error: JrsError) -> int:
    print(typed(f'{type(error).__name__}: {_own_words(error)}'), file=sys.stderr)
    return 2


def _own_words(error: JrsError) -> str:
    """Return the message of an error; torch wraps those of a loader's worker into the worker's traceback."""
    text = str(error)
    text = text.rpartition(f'{type(error).__name__}: ')[2].strip() if 'Original Traceback' in text else text
    return '\n'.join(map(readable, text.split('\n')))       # names of files in it can hold what turns a terminal over
