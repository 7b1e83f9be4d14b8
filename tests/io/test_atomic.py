import errno

import pytest

from jrs.errors import DataError
from jrs.io.atomic import atomic_folder, atomic_write, writing_to


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


def test_a_folder_appears_whole_or_not_at_all(tmp_path):
    with atomic_folder(tmp_path / 'a' / 'whole') as folder:
        (folder / 'one').write_text('1')
        assert not (tmp_path / 'a' / 'whole').exists()
    assert [path.name for path in (tmp_path / 'a').iterdir()] == ['whole'] and (tmp_path / 'a/whole/one').read_text() == '1'
    with pytest.raises(KeyError), atomic_folder(tmp_path / 'b' / 'half') as folder:
        (folder / 'one').write_text('1')
        raise KeyError
    with pytest.raises(DataError, match='whole is not empty \\(one\\)'), atomic_folder(tmp_path / 'a' / 'whole'):
        pass
    assert not list((tmp_path / 'b').iterdir()) and len(list((tmp_path / 'a').iterdir())) == 1


def test_a_full_disk_is_told_and_not_a_traceback(tmp_path):
    with pytest.raises(DataError, match=f'cannot write to the folder {tmp_path}: .*No space left.*make room'), \
            writing_to(tmp_path):
        raise OSError(errno.ENOSPC, 'No space left on device')
