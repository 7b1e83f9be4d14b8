"""``tools/configs.py``: the experiments that can be named, and which table and row of the paper each makes."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from pathlib import Path

from jrs.cli.parser import Parser
from jrs.errors import ConfigError, did_you_mean
from jrs.places import experiments, typed

EXAMPLES = """examples:
  python tools/configs.py                       all: name, table and row, what it is
  python tools/configs.py --table 3             those of a table
  python tools/configs.py fada pi3              those whose name has one of these words
  python tools/configs.py --paths all24_fada    their files

Every command that takes CONFIG takes such a name, its last part where no other has the same, or a file.
"""
NONE = '–'                                     # of a table that the paper has


def parser() -> argparse.ArgumentParser:
    """Return the command's options."""
    options = Parser(prog='tools/configs.py', description=__doc__, epilog=EXAMPLES,
                     formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument('words', nargs='*', metavar='WORD', help='only those whose name has one of these words')
    options.add_argument('--table', help='only those that make a row of this table of the paper, 1 to 9 or A3')
    options.add_argument('--paths', action='store_true', help='print the files instead')
    options.add_argument('--json', action='store_true', help='for programs: a list of name, file, rows, about')
    return options


def main(argv: list[str] | None = None) -> None:
    """Print the list; ConfigError where nothing is left of it."""
    args = parser().parse_args(argv)
    entries = list(select(catalogue(), args.words, args.table))
    if args.json:
        print(json.dumps(entries, indent=1, ensure_ascii=False))
    elif args.paths:
        print('\n'.join(entry['file'] for entry in entries))
    else:
        print(typed('\n'.join(lines_of(entries))))


def catalogue() -> list[dict]:
    """Return name, file, rows (title of the table, label of the row, benchmark) and first line of every experiment."""
    rows = rows_by_config()
    return [dict(name=name, file=str(path), rows=rows.get(path.stem, []) if _of_the_tables(path) else [], about=about(path))
            for name, path in experiments().items()]


def rows_by_config() -> dict[str, list[list[str]]]:
    """Return the paper's rows by the stem of the config that makes them: title of the table, label, benchmark."""
    from jrs.report.tables import load_tables
    found: dict[str, list[list[str]]] = {}
    for table in load_tables([*range(1, 10), 'A3']):
        for row in table.rows:
            for benchmark, config in row.configs.items():
                found.setdefault(Path(config).stem, []).append([table.title, row.label, benchmark])
    return found


def about(path: Path) -> str:
    """Return what the first comment of a config says, its lines joined up to the first full stop."""
    words = []
    for line in path.read_text(encoding='utf-8-sig').splitlines():
        if not line.startswith('#'):
            break
        words.append(line.lstrip('# ').strip())
        if words[-1].endswith('.'):
            break
    return ' '.join(words)


def select(entries: list[dict], words: list[str], table: str | None) -> Iterator[dict]:
    """Yield the entries that are asked for; ConfigError where there are none."""
    title = None if table is None else f'{"Appendix" if table == "A3" else "Table"} {table}'
    titles = {row[0] for entry in entries for row in entry['rows']}
    if title is not None and title not in titles:
        raise ConfigError(f'no experiment makes a row of table {table!r}.{did_you_mean(title, titles)}')
    found = [entry for entry in entries if (not words or any(word in entry['name'] for word in words))
             and (title is None or any(row[0] == title for row in entry['rows']))]
    if not found:
        which = '' if title is None else f' that makes a row of {title}'
        raise ConfigError(f'no experiment{which} has {" or ".join(map(repr, words))} in its name.'
                          f'{did_you_mean(words[0], [entry["name"] for entry in entries])}')
    yield from found


def lines_of(entries: list[dict]) -> Iterator[str]:
    """Yield the list as text: a line for the name with tables and rows, one for what it is."""
    for entry in entries:
        tables: dict[str, list[str]] = {}
        for title, label, _ in entry['rows']:
            if label not in tables.setdefault(title, []):
                tables[title].append(label)
        made = '; '.join(f'{title}: {", ".join(labels)}' for title, labels in tables.items())
        yield f'{entry["name"]:38} {made or NONE}'
        if entry['about']:
            yield f'    {entry["about"]}'


def _of_the_tables(path: Path) -> bool:
    """Return whether a file can be one that the tables name: in `configs/` of the project, not a plugin's of that name."""
    return path.parents[1].name == 'configs'
