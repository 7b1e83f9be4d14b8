"""Filled tables as Markdown, CSV, LaTeX (booktabs) and one HTML page."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from itertools import groupby
from pathlib import Path

from jrs.io.atomic import atomic_write
from jrs.report.claims import Verdict, judge
from jrs.report.results import Entry, Number
from jrs.report.tables import Column, Table
from jrs.report.transfer_rules import LEGEND, mean_rows, own_rules, rule_table
from jrs.visualization.html import Raw, page
from jrs.visualization.html import table as html_table

SMALL = ('Profile {}: a small network on small data. These numbers show that the experiments run and let rows of one table '
         'be compared; they are not of the scale of the paper, and differences from it mean nothing.')
COSTS = ('row', 'hours', 'memory (GB)', 'code', 'notes')
LATEX = {'&': r'\&', '%': r'\%', '$': r'\$', '#': r'\#', '_': r'\_', '{': r'\{', '}': r'\}', '~': r'\textasciitilde{}',
         '^': r'\textasciicircum{}', '\\': r'\textbackslash{}', '±': r'$\pm$', '−': '$-$', '–': '--', '<': '$<$', '>': '$>$',
         'δ': r'$\delta$'}


@dataclass
class Sheet:
    """A filled table, ready to be written."""

    table: Table
    entries: list[Entry]
    verdicts: list[tuple[str, Verdict]]          # name of the variant, claim


def sheets(entries: list[Entry]) -> list[Sheet]:
    """Group rows by table, and judge each table's claims in each variant."""
    found = []
    for _, group in groupby(entries, key=lambda entry: id(entry.table)):
        rows = list(group)
        variants = dict.fromkeys(entry.variant for entry in rows)
        verdicts = [verdict for variant in variants
                    for verdict in _verdicts(variant.name, [entry for entry in rows if entry.variant == variant])]
        found.append(Sheet(rows[0].table, rows, verdicts))
    return found


def _verdicts(name: str, entries: list[Entry]) -> list[tuple[str, Verdict]]:
    """Return the claims judged on what is trained here, then those that differ where published weights take its place."""
    own = [entry for entry in entries if not entry.released]
    verdicts = [(name, verdict) for verdict in judge(own)]
    with_weights = judge([*own, *reversed([entry for entry in entries if entry.released])])    # of one row the last counts
    known = {verdict for _, verdict in verdicts}
    label = ', '.join(filter(None, (name, 'with released weights')))
    return verdicts + [(label, verdict) for verdict in with_weights if verdict not in known]


def write_report(folder: Path, filled: list[Sheet], facts: dict[str, object]) -> list[Path]:
    """Write `report.md`, `report.html`, and `<table>.csv` and `.tex` of each table; returns the paths."""
    notice = notices(filled)
    texts = {'report.md': markdown(filled, facts, notice), 'report.html': web_page(filled, facts, notice)}
    for sheet in filled:
        texts |= {f'{sheet.table.name}.csv': comma_separated(sheet), f'{sheet.table.name}.tex': latex(sheet)}
    for name, text in texts.items():
        with atomic_write(folder / name, 'w') as file:
            file.write(text)
    return [folder / name for name in texts]


def notices(filled: list[Sheet]) -> str:
    """Return what a reader must know before the numbers."""
    profiles = dict.fromkeys(entry.variant.profile for sheet in filled for entry in sheet.entries)
    return '\n'.join(SMALL.format(profile) for profile in profiles if profile != 'paper')


def markdown(filled: list[Sheet], facts: dict[str, object], notice: str) -> str:
    """Return all tables as Markdown."""
    lines = ['# Tables of the paper, and ours', '', *(f'- {name}: {value}' for name, value in facts.items()), '', notice, '']
    for sheet in filled:
        lines += [*table_lines(sheet), *(f'- {name}: {value}' for name, value in _rules(sheet).items()), '']
    return '\n'.join(lines)


def table_lines(sheet: Sheet) -> list[str]:
    """Return one table as Markdown: numbers, claims, costs, and the commands of each row."""
    columns = _columns(sheet)
    lines = [f'## {sheet.table.title}', '', sheet.table.caption, '', *pipes(_heads(sheet, columns), [
        [*entry.cells, *_numbers(entry, columns)] for entry in sheet.entries]), '']
    if sheet.verdicts:
        lines += [*pipes(('claim of the paper', 'ours', 'numbers'), _claims(sheet)), '']
    lines += [*pipes(COSTS, [_costs(entry) for entry in sheet.entries]), '']
    for name, rows in _by_rule(sheet):
        lines += [f'{name}, by rule of transfer ({"; ".join(own_rules(rows))}):', '', *pipes(*rule_table(rows)), '', LEGEND,
                  '']
    for entry in sheet.entries:
        lines += [f'{_name(entry)}:', '', *(f'    {command}' for command in entry.commands), ''] if entry.commands else []
    return lines


def comma_separated(sheet: Sheet) -> str:
    """Return one line per row: labels, per column paper, mean, standard deviation, seeds, difference; then the costs."""
    parts = ('paper', 'ours', 'std', 'seeds', 'difference')
    columns = [f'{column.name} {part}' for column in sheet.table.columns for part in parts]
    heads = [*sheet.table.heads, 'variant', 'weights', *columns, *COSTS[1:], 'commands']
    text = io.StringIO()
    writer = csv.writer(text, lineterminator='\n')
    writer.writerow(heads)
    for entry in sheet.entries:
        numbers = [value for column in sheet.table.columns for value in _plain(entry.numbers[column.name])]
        writer.writerow([*entry.row.cells, entry.variant.name, entry.weights, *numbers, *_costs(entry)[1:],
                         ' && '.join(entry.commands)])
    return text.getvalue()


def latex(sheet: Sheet) -> str:
    """Return a booktabs table: ours, and the paper's number in brackets."""
    columns = _columns(sheet)
    heads = [*sheet.table.heads, *(column.title for column in columns)]
    rows = [[*entry.cells, *(_beside(entry.numbers[column.name]) for column in columns)] for entry in sheet.entries]
    body = [' & '.join(map(_tex, row)) + r' \\' for row in rows]
    return '\n'.join([
        r'% needs \usepackage{booktabs}; ours (mean, standard deviation over seeds), in brackets the number of the paper',
        r'\begin{table}', r'\centering',
        rf'\begin{{tabular}}{{{"l" * len(sheet.table.heads)}{"r" * len(columns)}}}', r'\toprule',
        ' & '.join(map(_tex, heads)) + r' \\', r'\midrule', *body, r'\bottomrule', r'\end{tabular}',
        rf'\caption{{{_tex(sheet.table.caption)}}}', rf'\label{{tab:{sheet.table.name}}}', r'\end{table}', ''])


def web_page(filled: list[Sheet], facts: dict[str, object], notice: str) -> str:
    """Return all tables as one self-contained page."""
    sections = []
    for sheet in filled:
        columns = _columns(sheet)
        rows = [[*entry.cells, *(_stacked(entry.numbers[column.name]) for column in columns)] for entry in sheet.entries]
        parts = [f'<h2>{escape(sheet.table.title)}</h2><p class="soft">{escape(sheet.table.caption)}</p>',
                 html_table([*map(_words, sheet.table.heads), *(column.title for column in columns)], rows)]
        if sheet.verdicts:
            parts += ['<h3>What the paper claims</h3>',
                      html_table(('claim', 'ours', 'numbers'), [[claim, Raw(f'<b>{escape(status)}</b>'), numbers]
                                                                for claim, status, numbers in _claims(sheet)])]
        costs = [[*_costs(entry)[:-1], _wrapped(entry.notes)] for entry in sheet.entries]
        commands = ''.join(f'<h3>{escape(_name(entry))}</h3>{_code(entry.commands)}' for entry in sheet.entries)
        parts += [f'<h3>{escape(name)}, by rule of transfer</h3>{html_table(*rule_table(rows))}<p class="soft">'
                  f'{escape("; ".join(own_rules(rows)))}. {escape(LEGEND)}</p>' for name, rows in _by_rule(sheet)]
        rules = ''.join(f'<li>{escape(name)}: {escape(value)}</li>' for name, value in _rules(sheet).items())
        parts += [f'<h3>Runs</h3>{html_table(COSTS, costs)}', f'<details><summary>commands</summary>{commands}</details>',
                  f'<details><summary>how it was scored</summary><ul>{rules}</ul></details>' if rules else '']
        sections.append(f'<section>{"".join(parts)}</section>')
    return page('Tables of the paper, and ours', '\n'.join(sections), facts, notice)


def _columns(sheet: Sheet) -> list[Column]:
    """Return the columns to show: of a table that is not the paper's those that have a number, or the first three."""
    if sheet.table.id is not None:
        return sheet.table.columns
    used = [column for column in sheet.table.columns if any(entry.numbers[column.name].values for entry in sheet.entries)]
    return used or sheet.table.columns[:3]


def _heads(sheet: Sheet, columns: list[Column]) -> list[str]:
    triple = ('paper', 'ours', 'difference') if sheet.table.id is not None else ('',)
    return [*map(_words, sheet.table.heads), *(f'{column.title} {part}'.strip() for column in columns for part in triple)]


def _numbers(entry: Entry, columns: list[Column]) -> list[str]:
    cells = [entry.numbers[column.name] for column in columns]
    if entry.table.id is None:
        return [cell.ours for cell in cells]
    return [text for cell in cells for text in (cell.text(cell.paper), cell.ours, cell.difference)]


def _costs(entry: Entry) -> list[str]:
    """Return row, hours, memory, code and what is not there, and why."""
    return [_name(entry), '–' if entry.hours is None else f'{entry.hours:.3g}',
            '–' if entry.memory_gb is None else f'{entry.memory_gb:.2f}', ', '.join(entry.commits) or '–',
            '; '.join(entry.notes) or '–']


def _claims(sheet: Sheet) -> list[list[str]]:
    return [[f'{verdict.text} ({name})' if name else verdict.text, verdict.status, verdict.numbers or '–']
            for name, verdict in sheet.verdicts]


def _by_rule(sheet: Sheet) -> list[tuple[str, list[dict]]]:
    """Return which row, and on which benchmark, was scored by several rules of transfer, with the means over its seeds."""
    return [(', '.join(filter(None, (_name(entry), benchmark))), mean_rows(runs))
            for entry in sheet.entries for benchmark, runs in entry.by_rule.items()]


def _rules(sheet: Sheet) -> dict[str, str]:
    """Return by which rules the rows were scored; where rows differ, whose."""
    rules: dict[str, dict[str, list[str]]] = {}
    for entry in sheet.entries:
        for name, value in entry.rules.items():
            rules.setdefault(name, {}).setdefault(value, []).append(_name(entry))
    return {name: next(iter(values)) if len(values) == 1 else '; '.join(f'{value} ({", ".join(rows)})'
                                                                        for value, rows in values.items())
            for name, values in rules.items()}


def _plain(number: Number) -> list[object]:
    difference = '' if number.mean is None or number.paper is None else number.mean - number.paper
    return ['' if value is None else value for value in (number.paper, number.mean, number.spread, len(number.values),
                                                         difference)]


def _name(entry: Entry) -> str:
    return f'{entry.row.label} ({entry.told_apart})' if entry.told_apart else entry.row.label


def _words(name: str) -> str:
    return name.replace('_', ' ')


def _beside(number: Number) -> str:
    return number.with_spread if number.paper is None else f'{number.with_spread} ({number.text(number.paper)})'


def _stacked(number: Number) -> Raw:
    """Return ours above the paper's number and the difference."""
    below = '' if number.paper is None else f'paper {number.text(number.paper)}'
    below += f', {number.difference}' if below and number.mean is not None else ''
    return Raw(f'<b>{escape(number.ours)}</b><br><span class="soft">{escape(below) or "&nbsp;"}</span>')


def _wrapped(lines: Sequence[str]) -> Raw:
    """Return lines of text in a cell of limited width."""
    text = '<br>'.join(map(escape, lines)) or '–'
    return Raw(f'<div style="white-space:normal;overflow-wrap:anywhere;min-width:320px;max-width:760px">{text}</div>')


def _code(commands: Sequence[str]) -> str:
    text = '\n'.join(commands) or 'none'
    return f'<pre style="overflow-x:auto">{escape(text)}</pre>'


def pipes(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Return a Markdown table."""
    lines = [heads, ['---'] * len(heads), *rows]
    return ['| ' + ' | '.join(str(cell).replace('|', r'\|') for cell in line) + ' |' for line in lines]


def _tex(text: str) -> str:
    return ''.join(LATEX.get(letter, letter) for letter in text)
