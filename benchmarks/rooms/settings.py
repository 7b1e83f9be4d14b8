"""Settings of published runs: of each what it changes in a run that it is like, and what re-creates its resolved config.

    python benchmarks/rooms/settings.py all24_no_fada_rooms_seed0 > config.py      # what the run was, as it saved it
    python benchmarks/rooms/settings.py all24_no_fada_rooms_seed0 --now            # what its command does otherwise today

A resolved config has 210 lines, of which the rows of a table differ in a few. `settings.json` of a run names the run that it
is `like`, by dotted path the values that are `changed` or added, and the paths that are `gone`; a run that is like none
keeps all values. It reads no config of the project, which go on changing. `digest` is that of the whole
(`jrs.report.identity`): where what a run is like is touched, reading it says so.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from mmengine.config import Config

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from jrs.cli.train import config_from, parser  # noqa: E402
from jrs.engine.record import read_record  # noqa: E402
from jrs.errors import DataError, did_you_mean  # noqa: E402
from jrs.report.differences import difference_lines  # noqa: E402
from jrs.report.identity import digest  # noqa: E402

RESULTS = Path(__file__).resolve().parents[1] / 'results' / 'rooms'
SETTINGS_FILE = 'settings.json'
ALIKE = 0.5                                    # share of the paths that a run like another may have otherwise


def main(argv: list[str] | None = None) -> None:
    """Print the config of a run, or how today's differs from it."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument('run', help='name of a folder of benchmarks/results/rooms')
    options.add_argument('--now', action='store_true', help='print how what its command does today differs')
    args = options.parse_args(argv)
    folder = RESULTS / args.run
    values = settings_of(folder)
    if args.now:
        today = config_from(parser().parse_args(read_record(folder)['command'][1:]))
        print('\n'.join(difference_lines(values, today._cfg_dict)) or 'no difference')
    else:
        print(Config(values).pretty_text, end='')


def settings_text(config: Mapping, folder: Path) -> str:
    """Return `settings.json` of a run with this resolved config; the runs beside `folder` are what it may be like.

    Raises:
        DataError: others are like the run in `folder`, which had another config; a key has a dot.
    """
    values, own = flat(config), digest(config)
    if digest(nested(values)) != own:
        raise DataError(f'a key in the config of {folder.name} has a dot, so that its path cannot be told. Rename it.')
    others = {path.parent.name: json.loads(path.read_text(encoding='utf-8'))
              for path in sorted(folder.parent.glob(f'*/{SETTINGS_FILE}'))}
    before = others.pop(folder.name, None)
    followers = [name for name, kept in others.items() if kept['like'] == folder.name]
    if followers and before and before['digest'] != own:
        raise DataError(f'the settings of {", ".join(followers)} are kept as what differs from {folder.name}, which had '
                        'another config. Publish this run under another --name.')
    found = dict(like=None, digest=own, gone=[], changed=values)
    for name in () if followers else [name for name, kept in others.items() if kept['like'] is None]:
        base = flat(settings_of(folder.parent / name))
        gone = [path for path in base if path not in values]
        changed = {path: value for path, value in values.items() if path not in base or base[path] != value}
        least = ALIKE * len(values) if found['like'] is None else len(found['gone']) + len(found['changed'])
        if len(gone) + len(changed) < least:
            found = dict(like=name, digest=own, gone=gone, changed=changed)
    return _text(found)


def settings_of(folder: Path) -> dict[str, Any]:
    """Return the resolved config of a published run, tuples as lists.

    Raises:
        DataError: there is no such run, or its settings are no longer what was published.
    """
    path = folder / SETTINGS_FILE
    if not path.is_file():
        known = [one.parent.name for one in folder.parent.glob(f'*/{SETTINGS_FILE}')]
        raise DataError(f'no settings of a run {folder.name!r} in {folder.parent}.{did_you_mean(folder.name, known)}')
    kept = json.loads(path.read_text(encoding='utf-8'))
    base = flat(settings_of(folder.parent / kept['like'])) if kept['like'] else {}
    values = nested({path: value for path, value in base.items() if path not in kept['gone']} | kept['changed'])
    if digest(values) != kept['digest']:
        other = f', or {kept["like"]}/{SETTINGS_FILE}, which it is like,' if kept['like'] else ''
        raise DataError(f'{path}{other} has been changed since it was published. Restore it from git.')
    return values


def flat(config: Mapping) -> dict[str, Any]:
    """Return a config by dotted path, tuples as lists; a mapping without keys is a value."""
    return {path: json.loads(json.dumps(value)) for path, value in _leaves(config, '')}


def _leaves(config: Mapping, before: str) -> Iterator[tuple[str, Any]]:
    for key, value in config.items():
        inner = isinstance(value, Mapping) and value
        yield from _leaves(value, f'{before}{key}.') if inner else ((f'{before}{key}', value),)


def nested(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the config of values by dotted path: the opposite of `flat`."""
    config: dict[str, Any] = {}
    for path, value in values.items():
        *sections, name = path.split('.')
        inner = config
        for section in sections:
            inner = inner.setdefault(section, {})
        inner[name] = value
    return config


def _text(kept: Mapping[str, Any]) -> str:
    """Return settings as JSON with one line per path."""
    lines = [f'  {json.dumps(path)}: {json.dumps(value)}' for path, value in kept['changed'].items()]
    head = [f' {json.dumps(name)}: {json.dumps(kept[name])},' for name in ('like', 'digest', 'gone')]
    changed = ' "changed": {\n' + ',\n'.join(lines) + '\n }' if lines else ' "changed": {}'
    return '\n'.join(['{', *head, changed, '}', ''])


if __name__ == '__main__':
    main()
