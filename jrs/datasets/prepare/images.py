"""Photos or a video -> a scene folder without cameras, depth, instances and mesh: what is not known is left out.

`tools/infer.py` reads photos and videos directly; a scene folder is for those that are read again and again: frames of a
video are taken out once, and a data set of several such scenes has a list, so that `SceneDataset` serves it in mode 'test'.
"""

from __future__ import annotations

import logging
import shlex
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image

from jrs.datasets.prepare.driver import Summary, Task, prepare_scenes, write_splits
from jrs.datasets.sampling import spread_views
from jrs.datasets.scene import COLOR_SUFFIXES, Camera, Frame, SceneRecord, SceneWriter
from jrs.errors import DataError
from jrs.io.images import PHOTO_FORMATS, VIDEO_VIEWS, as_video, count_frames, list_photos, read_photo
from jrs.io.names import MAX_NAME, distinct_names, expanded, readable
from jrs.io.png import encode_jpeg, encode_png8
from jrs.io.video import VideoFrames

LOG = logging.getLogger('jrs')
SOURCE = 'images'
BYTES_PER_PIXEL = 0.7                   # of a JPEG that we make of a video's frame


def prepare_images(sources: Sequence[str | Path], out: Path, name: str | None = None, every: int = 1,
                   max_views: int | None = None, progress: Callable[[str], None] = LOG.info) -> Summary:
    """Write one scene folder of photos or of a video, and the list `all` of what `out` holds.

    JPEG and PNG files are copied byte for byte, other pictures become PNG, frames of a video JPEG.

    Args:
        sources: a folder of photos, photos, or one video.
        out: folder of the data set.
        name: of the scene; None takes the name of the folder or of the first file.
        every: take each n-th photo or frame.
        max_views: at most so many, evenly spaced; None takes all photos, and 24 frames of a video.
        progress: receives lines for people.

    Raises:
        DataError: nothing there, a file that cannot be read, a name that is no file name, or too little disk space.
    """
    if every < 1 or (max_views is not None and max_views < 1):
        raise DataError(f'--every and --max-views must be at least 1, got {every} and {max_views}.')
    out, source = Path(out), sources[0] if len(sources) == 1 else list(sources)
    name = _own_name(expanded(sources[0]).resolve()) if name is None else name
    if not name or name.startswith('.') or set(name) & set('/\\') or any(char.isspace() for char in name) \
            or readable(name) != name or len(name.encode()) > MAX_NAME:
        raise DataError(f'The scene cannot be named {name!r}: give it a name of at most {MAX_NAME} bytes of text, without '
                        'spaces and slashes, with --name.')
    video = as_video(source)
    if video is not None and not video.is_file():
        raise DataError(f'There is no video {video}.')
    listed = list_photos(source) if video is None else [video]
    sizes = [[readable(path.name), path.stat().st_size] for path in listed]
    settings = {'every': every, 'max_views': max_views, 'sources': sizes}
    if video is None:
        files = _chosen(list(zip(distinct_names(listed), listed, strict=True)), every, max_views)
        size = partial(_total_bytes, [path for _, (_, path) in files])
        write = partial(_write_scene, out, name, settings, partial(_photos, files))
    else:
        size = partial(_video_bytes, video, max_views or VIDEO_VIEWS)
        write = partial(_write_scene, out, name, settings, partial(_frames, video, every, max_views or VIDEO_VIEWS))
    summary = prepare_scenes([Task(name, settings, size, write)], out, 1, progress)
    scenes = sorted(path.parent.name for path in out.glob('*/scene.json'))
    write_splits(out, {}, scenes, 'Reconstruct one with tools/infer.py.', progress)
    return summary


Picture = tuple[str, int, tuple[int, int], bytes, str]              # name, number, (H, W) upright, encoded, suffix


def _write_scene(out: Path, name: str, settings: dict, pictures: Callable[[], Iterator[Picture]]) -> list[str]:
    """Write the scene; pictures of each size share a camera of which nothing but the size is known."""
    frames, sizes = [], {}
    with SceneWriter(out, name) as writer:
        for stem, index, size, encoded, suffix in pictures():
            writer.color(stem, encoded, suffix)
            frames.append(Frame(stem, index, sizes.setdefault(size, len(sizes)), None))
        cameras = [Camera(size, None, None, None) for size in sizes]
        notes = [f'pictures of {len(sizes)} sizes'] if len(sizes) > 1 else []
        writer.finish(SceneRecord(name, SOURCE, cameras, frames, None, settings, notes))
    return notes


def _own_name(source: Path) -> str:
    """Return the name of a folder, or that of a file without its suffix."""
    return source.name if source.is_dir() else source.stem


def _photos(files: list[tuple[int, tuple[str, Path]]]) -> Iterator[Picture]:
    """Yield photos; each is decoded once, so that a broken one is found now."""
    for index, (stem, path) in files:
        picture = read_photo(path)
        suffix = path.suffix.lower().replace('.jpeg', '.jpg')
        encoded = path.read_bytes() if suffix in COLOR_SUFFIXES and _is_plain(path) else None
        yield (stem, index, picture.shape[:2], encoded or encode_png8(picture), suffix if encoded else '.png')


def _is_plain(path: Path) -> bool:
    """Whether a file is in the format of its suffix: phones rename other kinds to .jpg."""
    with Image.open(path, formats=PHOTO_FORMATS) as picture:
        return picture.format == {'.png': 'PNG'}.get(path.suffix.lower(), 'JPEG')


def _frames(video: Path, every: int, max_views: int) -> Iterator[Picture]:
    chosen = _chosen(range(count_frames(video)), every, max_views)
    if not chosen:
        raise DataError(f'{video}: no frame can be decoded. Extract its frames (ffmpeg -i {shlex.quote(video.name)} '
                        'frames/%05d.jpg) and give their folder.')
    with closing(VideoFrames(video)) as frames:
        for index, _ in chosen:
            picture = frames.frame(index)
            yield f'frame_{index:06d}', index, picture.shape[:2], encode_jpeg(picture), '.jpg'


def _chosen(items: Sequence, every: int, max_views: int | None) -> list[tuple[int, object]]:
    """Return (number, item) of each n-th item, at most `max_views`, spread evenly."""
    numbered = list(enumerate(items))[::every]
    return [numbered[place] for place in spread_views(len(numbered), max_views)]


def _total_bytes(files: list[Path]) -> float:
    return sum(path.stat().st_size for path in files)


def _video_bytes(video: Path, views: int) -> float:
    with closing(VideoFrames(video)) as frames:
        return views * np.prod(frames.frame(0).shape[:2]) * BYTES_PER_PIXEL
