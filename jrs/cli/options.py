"""Options that several commands share."""

from __future__ import annotations

import argparse
import os
from typing import Any

from mmengine.config import Config

from jrs.cli.parser import config_argument
from jrs.config import load_config, parse_override, profile_notes


def add_config_options(parser: argparse.ArgumentParser) -> None:
    """Add CONFIG, --profile and --cfg-options."""
    parser.add_argument('config', type=config_argument, metavar='CONFIG', help='an experiment: a file, or a name such as '
                        'segvggt/all24_fada (`jrs configs` lists all)')
    parser.add_argument('--profile', default='paper', help='scale: paper (as in the config), rooms_small (built-in '
                        'rooms, one GPU), rooms (built-in rooms, CPU in minutes), debug (seconds)')
    parser.add_argument('--cfg-options', nargs='+', default=[], metavar='a.b=c', help='overrides, e.g. seed=3 '
                        'train.iterations=500 model.losses.fada=None "plugins=[\'./mine.py\']"; a key that the config does '
                        'not have is refused')


def add_copy_option(parser: argparse.ArgumentParser | argparse._ArgumentGroup) -> None:
    """Add --copy, for checkpoints that hold several copies of a model."""
    parser.add_argument('--copy', metavar='NAME', help='of a checkpoint that holds several copies of the model take the one '
                        'under this name, such as ema; default: the model itself, or a copy where there is no other. Which '
                        'one is taken, and which there are, is printed')


def config_from(args: argparse.Namespace) -> Config:
    """Return the checked experiment that the options describe."""
    return load_config(args.config, args.profile, overrides_of(args))


def overrides_of(args: argparse.Namespace) -> dict[str, Any]:
    """Return what --cfg-options say: dotted path -> value."""
    return dict(parse_override(item) for item in args.cfg_options)


def notes_of(args: argparse.Namespace) -> list[str]:
    """Return what the profile does to what a config outside the project's own writes, one line each."""
    return profile_notes(args.config, args.profile, overrides_of(args))


def say_notes(args: argparse.Namespace) -> None:
    """Print these lines; of several processes the first one does."""
    if os.environ.get('RANK', os.environ.get('SLURM_PROCID', '0')) == '0':
        print(''.join(f'{note}\n' for note in notes_of(args)), end='', flush=True)


def positive(text: str) -> int:
    """Return a whole number of at least 1, as argparse's `type`."""
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f'must be at least 1, got {text}')
    return value
