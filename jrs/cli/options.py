"""Options that several commands share."""

from __future__ import annotations

import argparse

from mmengine.config import Config

from jrs.config import load_config, parse_override


def add_config_options(parser: argparse.ArgumentParser) -> None:
    """Add CONFIG, --profile and --cfg-options."""
    parser.add_argument('config', help='an experiment, e.g. configs/segvggt/all24_fada.py')
    parser.add_argument('--profile', default='paper', help='scale: paper (as in the config), rooms_small (built-in '
                        'rooms, one GPU), rooms (built-in rooms, CPU in minutes), debug (seconds)')
    parser.add_argument('--cfg-options', nargs='+', default=[], metavar='a.b=c', help='overrides, e.g. seed=3 '
                        'train.iterations=500; a key that the config does not have is refused')


def config_from(args: argparse.Namespace) -> Config:
    """Return the checked experiment that the options describe."""
    return load_config(args.config, args.profile, dict(parse_override(item) for item in args.cfg_options))
