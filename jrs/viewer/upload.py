"""Photos or a video that a browser sends -> a result, in a folder of their own that ends with the viewer."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

from jrs.errors import DataError
from jrs.io.names import distinct, view_name
from jrs.viewer.read import Source, read_output

MAX_BYTES = 2 << 30                             # of one upload, unpacked
MAX_FILES = 2000
Progress = Callable[[float, str], None]         # percent, what is done now


class Uploads:
    """Keeps what was sent until it is reconstructed.

    Args:
        folder: an empty one, deleted by who made it.
        reconstructor: returns a `jrs.engine.inference.Reconstructor`; called once, when the first upload is reconstructed.
        max_views: at most so many views of an upload; None = all photos, a few frames of a video.
    """

    def __init__(self, folder: Path, reconstructor: Callable[[], object], max_views: int | None = None) -> None:
        self.folder, self.make, self.max_views = folder, reconstructor, max_views
        self.made, self.count = None, 0
        self.files: dict[str, bytes] = {}

    def add(self, name: str, content: bytes) -> int:
        """Keep a photo, a video, or the photos of a zip; return how many files there are by now.

        Raises:
            DataError: empty, too much, or a broken zip.
        """
        if not content:
            raise DataError(f'{name}: the file is empty.')
        for own, data in _unzipped(name, content) if zipfile.is_zipfile(io.BytesIO(content)) else [(name, content)]:
            if len(self.files) >= MAX_FILES or sum(map(len, self.files.values())) + len(data) > MAX_BYTES:
                self.files.clear()
                raise DataError(f'more than {MAX_FILES} files or {MAX_BYTES >> 30} GiB: nothing of it was kept; reconstruct '
                                'them with tools/infer.py.')
            path = Path(own.replace('\\', '/')).name                    # a browser's name leads nowhere
            plain = f'{view_name(Path(path).stem)}{view_name(Path(path).suffix)[:12]}' or 'file'
            self.files[distinct([*self.files, plain], [*self.files, plain])[-1]] = data
        return len(self.files)

    def reconstruct(self, progress: Progress) -> Source:
        """Reconstruct what was added, and forget it; `progress` hears of each stage.

        Raises:
            DataError: nothing was added, or what was is no photo and no video. WeightsError, …: as of the reconstructor.
        """
        if not self.files:
            raise DataError('nothing was uploaded yet.')
        self.count += 1
        source, out = (self.folder / f'{what}_{self.count:03d}' for what in ('photos', 'upload'))
        source.mkdir()
        for name, data in self.files.items():
            (source / name).write_bytes(data)
        files, self.files = sorted(source.iterdir()), {}
        if self.made is None:
            progress(5, 'reading the weights')
            self.made = self.make()
        progress(20, 'reading the photos')
        photos = self.made.load(files[0] if len(files) == 1 else source, self.max_views)
        progress(35, f'reconstructing {len(photos.names)} views')
        scene = self.made(photos)
        progress(85, 'writing')
        scene.save(out, glb=False, title='Upload')
        progress(100, f'done: {len(photos.names)} views, {0 if scene.instances is None else len(scene.instances)} instances')
        return Source(out.name, partial(read_output, out))


def _unzipped(name: str, content: bytes) -> list[tuple[str, bytes]]:
    """Return name and content of the files of a zip; sizes are checked before anything is unpacked."""
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            entries = [entry for entry in archive.infolist() if not entry.is_dir()]
            if len(entries) > MAX_FILES or sum(entry.file_size for entry in entries) > MAX_BYTES:
                raise DataError(f'{name}: more than {MAX_FILES} files or {MAX_BYTES >> 30} GiB when unpacked.')
            return [(entry.filename, archive.read(entry)) for entry in entries]
    except (zipfile.BadZipFile, RuntimeError, NotImplementedError, OSError, EOFError) as error:
        raise DataError(f'{name}: the zip cannot be unpacked ({error}).') from error
