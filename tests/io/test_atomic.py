import pytest

from jrs.io.atomic import atomic_write


def test_a_write_that_fails_leaves_the_old_file_and_no_rest(tmp_path):
    path = tmp_path / 'a.txt'
    path.write_text('old')
    with pytest.raises(RuntimeError), atomic_write(path, 'w') as file:
        file.write('half')
        raise RuntimeError
    assert path.read_text() == 'old'
    assert list(tmp_path.iterdir()) == [path]


def test_the_file_appears_only_when_complete(tmp_path):
    path = tmp_path / 'new' / 'b.bin'
    with atomic_write(path) as file:
        file.write(b'12')
        assert not path.exists()
    assert path.read_bytes() == b'12'
    assert path.stat().st_mode & 0o400
