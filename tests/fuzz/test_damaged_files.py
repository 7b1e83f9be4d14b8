"""Whatever the bytes of a file are, its reader gives a result or a JrsError: no crash, no hang, no memory blow-up."""

from __future__ import annotations

import warnings

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from PIL import Image

from jrs.errors import JrsError
from tests.fuzz.damage import damaged
from tests.fuzz.limits import limited
from tests.fuzz.readers import READERS, corpus

EXAMPLES = 40                                    # per reader


def attempt(reader, data, path):
    """Read `data` within the limits; what is no JrsError comes through."""
    with limited(), warnings.catch_warnings():
        warnings.simplefilter('ignore')
        warnings.simplefilter('error', RuntimeWarning)                      # numpy's casts that lose a value
        warnings.simplefilter('ignore', Image.DecompressionBombWarning)     # PIL refuses from twice as many pixels on
        try:
            reader.try_on(data, path)
        except JrsError as error:
            assert str(path.parent) in str(error) or path.name == 'override', error      # the file is named


@pytest.mark.parametrize('name', READERS)
def test_a_sound_file_is_read(name, tmp_path):
    path = READERS[name].prepare(tmp_path)
    for data in READERS[name].sound():
        READERS[name].try_on(data, path)


@pytest.mark.parametrize('name', READERS)
def test_a_damaged_file_gives_a_result_or_an_error_that_names_it(name, tmp_path):
    reader = READERS[name]
    path = reader.prepare(tmp_path)

    @settings(max_examples=EXAMPLES, derandomize=True, database=None, deadline=None, phases=[Phase.generate],
              suppress_health_check=list(HealthCheck))
    @given(damaged(reader.sound()))
    def check(data):
        attempt(reader, data, path)
    check()


@pytest.mark.parametrize(('name', 'file'), list(corpus()), ids=lambda value: getattr(value, 'name', value))
def test_what_the_search_kept_gives_a_result_or_an_error(name, file, tmp_path):
    attempt(READERS[name], file.read_bytes(), READERS[name].prepare(tmp_path))
