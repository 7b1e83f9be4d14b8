"""What a browser sends is kept under plain names, bounded, reconstructed and forgotten."""

import io
import zipfile

import pytest

from jrs.errors import DataError
from jrs.viewer import upload
from jrs.viewer.upload import Uploads


class Reconstructs:
    """Stands for a Reconstructor: remembers what it was given."""

    def __init__(self):
        self.seen = []

    def load(self, source, max_views):
        files = [source] if source.is_file() else sorted(source.iterdir())
        self.seen.append([(path.name, path.read_bytes()) for path in files])
        return type('Photos', (), dict(names=[path.stem for path in files]))

    def __call__(self, photos):
        return type('Scene', (), dict(instances=None, save=lambda self, out, **options: out.mkdir()))()


def zipped(entries):
    """Return a zip of name -> content."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, 'w') as archive:
        for name, content in entries.items():
            archive.writestr(name, content)
    return buffer.getvalue()


def test_files_keep_plain_names_inside_the_folder(tmp_path):
    made, said = Reconstructs(), []
    uploads = Uploads(tmp_path, lambda: made)
    assert uploads.add('../../etc/a.jpg', b'1') == 1 and uploads.add('C:\\photos\\a.jpg', b'2') == 2
    assert uploads.add('more.zip', zipped({'../../b.png': b'3', 'deep/c.png': b'4'})) == 4
    source = uploads.reconstruct(lambda percent, words: said.append((percent, words)))
    assert [content for _, content in made.seen[0]] == [b'1', b'2', b'3', b'4']
    assert all('/' not in name and '..' not in name for name, _ in made.seen[0])
    assert source.name == 'upload_001' and (tmp_path / 'upload_001').is_dir()
    assert [percent for percent, _ in said] == sorted(percent for percent, _ in said) and said[-1][0] == 100
    assert 'reconstructing 4 views' in [words for _, words in said]
    with pytest.raises(DataError, match='nothing was uploaded'):
        uploads.reconstruct(lambda percent, words: None)
    uploads.add('d.jpg', b'5')
    assert uploads.reconstruct(lambda percent, words: None).name == 'upload_002' and made.seen[1] == [('d.jpg', b'5')]


def test_what_is_empty_broken_or_too_much_is_refused(tmp_path, monkeypatch):
    uploads = Uploads(tmp_path, Reconstructs)
    with pytest.raises(DataError, match='empty'):
        uploads.add('a.jpg', b'')
    broken = bytearray(zipped({'a.png': b'x' * 500}))
    broken[40:60] = bytes(20)
    with pytest.raises(DataError, match='cannot be unpacked'):
        uploads.add('a.zip', bytes(broken))
    monkeypatch.setattr(upload, 'MAX_BYTES', 100)
    with pytest.raises(DataError, match='when unpacked'):
        uploads.add('a.zip', zipped({'a.png': b'x' * 101}))
    uploads.add('a.jpg', b'x' * 99)
    with pytest.raises(DataError, match='nothing of it was kept'):
        uploads.add('b.jpg', b'xx')
    assert uploads.files == {}
