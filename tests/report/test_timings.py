"""Times that others measured fill rows of Tables 5 and 6, labelled; a file that does not fit says where and what is near."""

import json

import pytest

from jrs.errors import DataError
from jrs.report import timings
from jrs.report.claims import FAILS, HOLDS, OPEN, judge
from jrs.report.timings import read_timings
from tests._data import command
from tests.report.test_results import entries

GOOD = dict(table=6, method='IGGT', source='its code at 1a2b3c4', hardware='NVIDIA A100', inference_s=7.5,
            postprocess_s=1100, total_s=1107.5, memory_gb=35.2)


def write(path, *rows):
    path.write_text('timings:\n' + ''.join(f'  - {json.dumps(row)}\n' for row in rows))           # JSON is YAML
    return path


def test_what_the_module_describes_can_be_read(tmp_path):
    example = '\n'.join(line for line in timings.__doc__.splitlines() if line.startswith('    '))
    rest = 'source: me\n        hardware: mine\n        total_s: 1'
    (tmp_path / 't.yaml').write_text(example.replace('source: ...', rest))
    found = read_timings([tmp_path / 't.yaml'])
    assert set(found) == {(6, 'IGGT'), (6, 'My method')} and found[6, 'IGGT'].numbers['postprocess_s'] == 1113.64
    assert found[6, 'My method'].new and found[6, 'IGGT'].hardware == 'NVIDIA A100-SXM4-80GB'


def test_given_times_stand_in_the_tables_with_their_source_and_machine(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    first = write(tmp_path / 'a.yaml', GOOD, dict(table=5, input_frames=100, source='a colleague', hardware='NVIDIA H200',
                                                  total_s=12.5))
    second = write(tmp_path / 'b.yaml', dict(GOOD, method='My method', new_row=True, hardware='NVIDIA H200'))
    words = ('reproduce', '--table', 5, 6, '--timings', first, second, '--rows', '100', 'IGGT', 'My method', '--profile')
    assert command(*words, 'paper', 'debug', '--dry-run') == 0
    dry = ' '.join(capsys.readouterr().out.split())                               # lines are wrapped
    assert 'finished: IGGT of Table 6, measured elsewhere: its code at 1a2b3c4; on NVIDIA A100' in dry
    assert command(*words, 'paper', '--out', 'out') == 0
    text = (tmp_path / 'out/report.md').read_text()
    assert '| IGGT (measured elsewhere: its code at 1a2b3c4; on NVIDIA A100) | 7.52 | 7.50 (n=1) | -0.02 |' in text
    assert text.count('| My method (measured elsewhere: its code at 1a2b3c4; on NVIDIA H200) |') == 1
    assert 'device: NVIDIA A100 (IGGT); NVIDIA H200 (My method)' in text
    for name in ('report.html', 'table6.csv', 'table6.tex'):
        assert 'measured elsewhere: its code at 1a2b3c4; on NVIDIA' in (tmp_path / 'out' / name).read_text()
    assert not (tmp_path / 'benchmarks').exists() and not (tmp_path / 'work_dirs').exists()


def test_times_of_different_machines_decide_nothing():
    rows = [dict(total_s=(9.0,)), dict(total_s=(8.0,)), dict(total_s=(7.0,)), dict(total_s=(1.0,))]
    def fastest(*devices):
        filled = entries(6, *rows)
        for entry, device in zip(filled, devices, strict=True):
            entry.rules['device'] = device
        return next(verdict for verdict in judge(filled) if verdict.text.startswith('fastest'))
    assert fastest(*['NVIDIA A100'] * 4).status == HOLDS
    mixed = fastest(*['NVIDIA A100'] * 3, 'cpu: x86_64')
    assert mixed.status == OPEN and 'different machines: NVIDIA A100, cpu: x86_64' in mixed.numbers
    rows[0] = dict(total_s=(0.5,))
    assert fastest(*['cpu: x86_64'] * 4).status == FAILS


def changed(**changes):
    return {key: value for key, value in {**GOOD, **changes}.items() if value is not None}


@pytest.mark.parametrize(('rows', 'said'), [
    ([changed(method='IGTG')], "entry 1: Table 6 has no row 'IGTG'. Did you mean 'IGGT'.*new_row: true"),
    ([changed(infernce_s=1)], "unknown key 'infernce_s'. Did you mean 'inference_s'"),
    ([changed(aggregator_s=1)], "unknown key 'aggregator_s'"),                       # Table 6 has no such column
    ([GOOD, changed(method='PanSt3R', hardware=None)], 'entry 2: needs hardware.*a time without its machine'),
    ([changed(source=' ')], "needs source, in words, got ' '"), ([changed(source=3)], 'needs source'),
    ([changed(table=3)], 'table must be 5 or 6, got 3'), ([changed(table='6')], "table must be 5 or 6, got '6'"),
    ([changed(total_s='12 s')], "total_s must be a number above 0, of seconds or GB, got '12 s'"),
    ([changed(total_s=-1)], 'total_s must be a number above 0'), ([changed(memory_gb=True)], 'memory_gb must be a number'),
    ([dict(table=6, method='IGGT', source='s', hardware='h')], 'has no number'),
    ([changed(new_row=True)], "Table 6 has a row 'IGGT': leave out new_row"), ([changed(new_row='yes')], 'true or false'),
    ([GOOD, GOOD], "Table 6, 'IGGT' stands twice"), ([changed(table=5, method=None, input_frames='many')], 'input_frames'),
    ([changed(table=5, method=None)], 'needs input_frames, a whole number'),
    (['IGGT'], "must be `key: value` lines, got 'IGGT'")])
def test_an_entry_that_does_not_fit_says_what_is_wrong(rows, said, tmp_path):
    with pytest.raises(DataError, match=said) as error:
        read_timings([write(tmp_path / 't.yaml', *rows)])
    assert str(tmp_path / 't.yaml') in str(error.value)


@pytest.mark.parametrize(('text', 'said'), [
    ('timings: [', 'not YAML'), ('- 3', 'must be `timings:`'), ('times: []', 'must be `timings:`.*got times'),
    ('', 'must be `timings:`'), ('timings: 2026-13-45', 'not YAML'), ('[' * 600, 'not YAML'), (None, 'cannot be read')])
def test_a_file_of_another_kind_is_refused(text, said, tmp_path):
    if text is not None:
        (tmp_path / 't.yaml').write_text(text)
    with pytest.raises(DataError, match=said):
        read_timings([tmp_path / 't.yaml'])
