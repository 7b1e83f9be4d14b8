"""The paper's tables as data: every number has a measure."""

import pytest

from jrs.errors import ConfigError
from jrs.report.tables import extra_row, load_tables

ROWS = {1: 13, 2: 3, 3: 3, 4: 4, 5: 5, 6: 4, 7: 2, 8: 4, 9: 3, 'A3': 2}


@pytest.mark.parametrize('number', ROWS)
def test_every_column_is_a_label_or_a_number_that_we_measure(number):
    table = load_tables([number])[0]
    assert len(table.rows) == ROWS[number]
    for row in table.rows:
        assert len(row.cells) == len(table.heads) and row.configs
        assert all(value is None or isinstance(value, (int, float)) for value in row.paper.values())
        assert row.paper.keys() == {column.name for column in table.columns}
    assert not any('map' in head or head.endswith('_s') or 'rel' in head for head in table.heads)


def test_a_table_that_the_paper_does_not_have_is_refused():
    with pytest.raises(ConfigError, match='no table 10; there are 1, 2, 3, 4, 5, 6, 7, 8, 9, A3'):
        load_tables([3, 10])


def test_a_further_row_stands_in_the_column_of_its_benchmark():
    table = load_tables([2])[0]
    assert extra_row(table, 'mine', 'mine.py', 'scannet20').configs == {'scannetv2': 'mine.py'}
    assert extra_row(load_tables([3])[0], 'mine', 'mine.py', 'scannet200').configs == {'': 'mine.py'}
