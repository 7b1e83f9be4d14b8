"""Spread over seeds, and what a report shows of numbers and claims."""

import csv
import dataclasses
import io
import re
from pathlib import Path
from types import SimpleNamespace

import pytest

from jrs.report import results
from jrs.report.claims import FAILS, HOLDS
from jrs.report.plan import Cell, Variant
from jrs.report.render import Sheet, comma_separated, latex, markdown, sheets, web_page, write_report
from jrs.report.results import Number, collect
from jrs.report.tables import load_tables
from jrs.report.work import Given, Scoring, Submission
from tests.report._entries import entries


def test_spread_is_none_a_range_or_a_sample_standard_deviation():
    number = entries(3, {'map': (30.0,)})[0].numbers['map']
    assert number.ours == '30.0 (n=1)' and number.spread is None and number.difference == '+3.3'
    assert entries(3, {'map': (30.0, 31.0)})[0].numbers['map'].ours == '30.5 [30.0..31.0] (n=2)'
    number = entries(3, {'map': (1.0, 2.0, 3.0)})[0].numbers['map']
    assert number.ours == '2.0 ± 1.0 (n=3)' and number.spread == pytest.approx(1.0)
    assert entries(3)[0].numbers['map'].ours == '–' == entries(3)[0].numbers['map'].difference


@pytest.fixture
def sheet():
    filled = entries(8, {'map': (10.0, 12.0, 14.0)}, {}, {}, {'map': (20.0, 20.0, 20.0)})
    filled[0].commands.append('python tools/train.py a_b.py')
    filled[0].commits.append('abc+changes')
    filled[1].notes.append('failed: WeightsError: broken <file> & more')
    filled[0].hours, filled[0].memory_gb = 1.5, 7.25
    return sheets(filled)[0]


def test_markdown_shows_paper_ours_and_difference(sheet):
    text = markdown([sheet], {'seeds': '0 1 2'}, '')
    assert '| VGGT (FT) + mask decoder | 6 | 22.4 | 12.0 ± 2.0 (n=3) | -10.4 |' in text
    assert '| 1.5 | 7.25 | abc+changes |' in text and '    python tools/train.py a_b.py' in text
    assert 'failed: WeightsError: broken <file> & more' in text and 'does not hold' not in text.split('claim')[0]


def test_a_row_that_was_scored_by_several_rules_shows_them_with_the_oracle(sheet):
    def row(rule, score, oracle):
        return dict(metric='instance', rule=rule, transfer=dict(vote='majority'), numbers=dict(AP=score, oracle_AP=oracle))
    sheet.entries[3].by_rule['scannet200'] = [[row('as configured', 0.2, 0.6), row('vote=any', 0.3, None)],
                                              [row('as configured', 0.4, 0.8), row('vote=any', 0.5, 0.9)]]
    for text in (markdown([sheet], {}, ''), web_page([sheet], {}, '')):
        assert 'SegVGGT (unified), scannet200, by rule of transfer' in text
        assert 'instance, as configured: vote majority' in text
        assert '30.0 (70.0)' in text and '40.0 (90.0)' in text and text.count('by rule of transfer') == 1


def test_csv_keeps_full_numbers(sheet):
    rows = list(csv.DictReader(io.StringIO(comma_separated(sheet))))
    assert float(rows[0]['map ours']) == 12.0 and float(rows[0]['map std']) == 2.0 and rows[0]['map seeds'] == '3'
    assert rows[1]['map ours'] == '' and rows[1]['map paper'] == '23.4' and rows[0]['commands']


def test_latex_has_no_bare_special_letter(sheet):
    text = latex(sheet)
    body = text[text.index(r'\midrule'):text.index(r'\bottomrule')]
    assert r'12.0 $\pm$ 2.0 (22.4)' in body and all(line.endswith(r'\\') for line in body.splitlines()[1:] if line)
    assert not re.search(r'(?<!\\)[_%#]', text.partition('\n')[2]) and text.count('&') == 4 * 5


def test_the_page_escapes_texts_and_marks_small_profiles(sheet):
    text = web_page([sheet], {}, '')
    assert 'broken &lt;file&gt; &amp; more' in text and '<b>12.0 ± 2.0 (n=3)</b>' in text and 'paper 22.4, -10.4' in text


def test_a_report_warns_that_small_profiles_are_not_the_paper(sheet, tmp_path):
    assert 'mean nothing' not in write_report(tmp_path, [sheet], {})[0].read_text()
    for entry in sheet.entries:
        entry.variant = Variant('debug', (), '')
    paths = write_report(tmp_path, [Sheet(sheet.table, sheet.entries, [])], {})
    assert {path.name for path in paths} == {'report.md', 'report.html', 'table8.csv', 'table8.tex'}
    assert 'mean nothing' in paths[0].read_text() and 'mean nothing' in paths[1].read_text()


def test_claims_are_judged_with_published_weights_in_the_place_of_trained_ones():
    filled = entries(3, {'map': (10.0, 10.1)}, {'map': (20.0, 20.1)}, {'map': (15.0, 15.1)})
    number = Number(filled[2].numbers['map'].column, 31.9, {0: 30.0, 1: 30.1})
    filled.append(dataclasses.replace(filled[2], numbers={**filled[2].numbers, 'map': number}, released=True,
                                      weights='released weights: w.pt, sha256 0123'))
    verdicts = [(name, verdict.status) for name, verdict in sheets(filled)[0].verdicts if 'matching cost' in verdict.text]
    assert verdicts == [('', FAILS), ('with released weights', HOLDS)]
    assert [name for name, verdict in sheets(filled)[0].verdicts if 'over no FADA' in verdict.text] == ['']
    assert '| 3 (released weights: w.pt, sha256 0123) | yes | yes |' in markdown(sheets(filled), {}, '')


@pytest.mark.parametrize(('kind', 'own', 'fixed'), [
    (Scoring, dict(training=object()), False), (Scoring, dict(training=None), True), (Submission, {}, True),
    (Given, {}, True)])
def test_numbers_that_no_training_of_the_row_made_are_fixed(kind, own, fixed, monkeypatch):
    """They need no further seed for a claim: times, published weights, other methods' files."""
    work = object.__new__(kind)
    vars(work).update(own, folder=Path(), state=lambda any_code: ('', []))
    table = load_tables([3])[0]
    cell = Cell(table, table.rows[0], '', Variant('paper', (), ''), work={0: work})
    for name, value in dict(_why_not='', _values={'instance/AP': 0.5}, resampled_of={}, read_json={}, _add_costs=None,
                            _add_commands=None, _hours=0.0).items():
        monkeypatch.setattr(results, name, lambda *given, value=value: value)
    entry, = collect(SimpleNamespace(cells=[cell]), {}, True)
    assert entry.numbers['map'].values == {0: 50.0} and entry.numbers['map'].fixed is fixed
    assert not entry.numbers['map50'].fixed                                               # nothing was measured
