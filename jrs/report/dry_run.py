"""What a plan would do, for a screen: what can run first, then what is finished, then each kind of gap in one line."""

from __future__ import annotations

import shlex
import shutil
import textwrap
from collections.abc import Callable, Iterable, Sequence

from jrs.report.gaps import by_kind
from jrs.report.plan import Cell, Plan
from jrs.report.work import FINISHED, Work

UNKNOWN_WIDTH = 100                            # characters, where there is no terminal
NARROWEST = 20
COMMAND = ' ' * 6                              # before a command


def screen_width() -> int:
    """Return how many characters a line of the terminal has."""
    return max(NARROWEST, shutil.get_terminal_size((UNKNOWN_WIDTH, 24)).columns)


class DryRun:
    """Tells what a plan would do.

    Args:
        plan: what is planned.
        missing: chain -> what of it would be run.
        command: work -> the words of its command, as people type them.
        note: work -> what else to say of it, '' for nothing.
        any_code: whether work by other code counts.
        width: characters of a line.
    """

    def __init__(self, plan: Plan, missing: Callable[[list[Work]], list[Work]], command: Callable[[Work], list[str]],
                 note: Callable[[Work], str], any_code: bool, width: int) -> None:
        self.plan, self.command, self.note, self.any_code, self.width = plan, command, note, any_code, width
        self.will_run = [work for chain in plan.chains() for work in missing(chain)]
        self.said: set[int] = set()

    def lines(self, everything: bool) -> list[str]:
        """Return the lines; with `everything` also the commands of what cannot run yet."""
        groups: dict[str, list[Cell]] = {'ready': [], 'finished': [], 'blocked': []}
        for cell in self.plan.cells:
            groups[self._group(cell)].append(cell)
        ready, finished, blocked = groups.values()
        lines = [*self._preparations(), *self._section(f'{_cells(ready)} can run:', ready)]
        rest = [work for work in self.will_run if id(work) not in self.said]
        lines += self._text('can run, and fills no cell yet:') if rest else []
        lines += [line for work in rest for line in self._work(work, 4)]
        lines += self._section(f'{_cells(finished)} {"is" if len(finished) == 1 else "are"} finished:', finished)
        lines += self._section(f'{_cells(blocked)} cannot run yet:', blocked) if everything else []
        lines += [line for number, gap in by_kind(map(self._gaps, blocked)) for line in self._text(
            f'{number} {"cell needs" if number == 1 else "cells need"} {gap.need}: {gap.how}', '    ')]
        hint = '' if everything or not blocked else ' (--commands lists them)'
        return [*lines, *self._text(f'{_cells(self.plan.cells)}: {len(finished)} finished, {len(ready)} can run, '
                                    f'{len(blocked)} lack something{hint}')]

    def _group(self, cell: Cell) -> str:
        if self._gaps(cell):
            return 'blocked'
        return 'finished' if cell.filled(self.any_code) else 'ready'

    def _gaps(self, cell: Cell) -> list:
        return [*cell.gaps, *(gap for work in _works(cell) if not work.settled(self.any_code) for gap in work.gaps)]

    def _preparations(self) -> list[str]:
        first = self.plan.preparations if self.will_run else []
        return [*self._text('first:'), *(line for work in first for line in self._command(work))] if first else []

    def _section(self, title: str, cells: Sequence[Cell]) -> list[str]:
        lines = self._text(title) if cells else []
        for cell in cells:
            label = ', '.join(filter(None, (cell.row.label, cell.benchmark, cell.variant.name, cell.origin)))
            lines += self._text(f'  {cell.table.title}: {label}', '    ')
            needs = '; '.join(dict.fromkeys(gap.need for gap in self._gaps(cell)))
            lines += self._text(f'    needs {needs}', COMMAND) if needs else []
            for work in _works(cell):
                lines += self._work(work, 4)
        return lines

    def _work(self, work: Work, indent: int) -> list[str]:
        """Return the lines of one command; what was said above is only named."""
        state, parts = work.state(self.any_code)
        line = f'{" " * indent}{state} {", ".join(parts)}'.rstrip() + f': {work.title}'
        if id(work) in self.said:
            return self._text(f'{line} (see above)', COMMAND)
        self.said.add(id(work))
        if state == FINISHED:
            return self._text(line, COMMAND)
        return [*self._text(line + self.note(work), COMMAND), *self._command(work)]

    def _command(self, work: Work) -> list[str]:
        words = self.command(work)
        return shell_lines(words, self.width, COMMAND) if words else []

    def _text(self, text: str, further: str = '') -> list[str]:
        return textwrap.wrap(text, self.width, subsequent_indent=further, break_on_hyphens=False, drop_whitespace=True)


def shell_lines(words: Sequence[str], width: int, indent: str) -> list[str]:
    """Return a command over lines of at most `width` characters, which a shell takes as the one command that it is."""
    lines, current = [], indent
    for word in words:
        quoted = shlex.quote(word)
        if len(current.rstrip()) and len(current) + 1 + len(quoted) + 2 > width:
            lines.append(f'{current} \\')
            current = indent + '  ' if len(indent) + len(quoted) + 4 <= width else ''        # a long word has the whole line
        current += ('' if not current.strip() else ' ')
        for piece in _pieces(word, width - len(current) - 2, width - 2):
            if len(current) + len(piece) + 2 > width:                # nothing before a piece: it goes on with the word
                lines.append(f'{current}\\')
                current = ''
            current += piece
    return [*lines, current]


def _pieces(word: str, first: int, further: int) -> Iterable[str]:
    """Yield a word as quoted pieces of which the first has at most `first` characters, the others `further`."""
    room = first
    while len(shlex.quote(word)) > room:
        count = min(len(word), max(room, 0))
        while count and len(shlex.quote(word[:count])) > room:
            count -= 1
        if count:
            yield shlex.quote(word[:count])
        word, room = word[count:], further
    if word or room == first:
        yield shlex.quote(word)


def _works(cell: Cell) -> list[Work]:
    """Return the trainings and scorings of a cell, each training before what scores it."""
    works = [one for work in cell.work.values() for one in (getattr(work, 'training', None), work) if one is not None]
    return list({id(work): work for work in works}.values())


def _cells(cells: Sequence[Cell]) -> str:
    return f'{len(cells)} cell{"s" if len(cells) != 1 else ""}'
