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
from typing import NamedTuple

import numpy as np

from jrs.datasets.prepare.driver import Summary, Task, prepare_scenes, write_splits
from jrs.datasets.sampling import spread_views
from jrs.datasets.scene import Camera, Frame, SceneFolder, SceneRecord, SceneWriter, check_scene_name
from jrs.errors import DataError
from jrs.io.images import VIDEO_VIEWS, as_video, count_frames, find_photos, frames_chosen, not_chosen, read_together
from jrs.io.names import distinct_names, expanded, readable
from jrs.io.photo import Photo, sniff
from jrs.io.photo_files import not_read, remarks_on
from jrs.io.png import MAX_PIXELS, encode_jpeg, encode_png8
from jrs.io.video import VideoFrames
from jrs.io.wide import read_samples

LOG = logging.getLogger('jrs')
SOURCE = 'images'
BYTES_PER_PIXEL = 0.7                   # of a JPEG that we make of a video's frame
COPIED = {'JPEG': '.jpg', 'PNG': '.png'}


def prepare_images(sources: Sequence[str | Path], out: Path, name: str | None = None, every: int = 1,
                   max_views: int | None = None, progress: Callable[[str], None] = LOG.info) -> Summary:
    """Write one scene folder of photos or of a video, and the list `all` of what `out` holds.

    JPEG and PNG files of 8 bits are copied byte for byte, other pictures become PNG, frames of a video JPEG. What is not
    read is named, to `progress` and in the scene's notes.

    Args:
        sources: a folder of photos, photos, or one video.
        out: folder of the data set.
        name: of the scene; None takes the name of the folder or of the first file.
        every: take each n-th photo or frame.
        max_views: at most so many, evenly spaced; None takes all photos, and 24 frames of a video.
        progress: receives lines for people.

    Raises:
        DataError: nothing there, a file that cannot be read, a name that is no file name or that of a scene from another
            folder, or too little disk space.
    """
    if every < 1 or (max_views is not None and max_views < 1):
        raise DataError(f'--every and --max-views must be at least 1, got {every} and {max_views}.')
    out, source = Path(out), sources[0] if len(sources) == 1 else list(sources)
    name = _own_name(expanded(sources[0]).resolve()) if name is None else name
    check_scene_name(name, 'Give it another one with --name.')
    video = as_video(source)
    if video is not None and not video.is_file():
        raise DataError(f'There is no video {video}.')
    listed, left_out = find_photos(source) if video is None else ([video], {})
    sizes = [[readable(path.name), path.stat().st_size] for path in listed]
    folder = readable(str(listed[0].resolve().parent))
    _check_same_source(out / name, folder)
    settings = {'every': every, 'max_views': max_views, 'sources': sizes, 'folder': folder}
    if video is None:
        files = _chosen(list(zip(distinct_names(listed), listed, strict=True)), every, max_views)
        paths = [path for _, (_, path) in files]
        left_out |= not_chosen(listed, paths, every, max_views)
        size, pictures = partial(_total_bytes, paths), partial(_photos, files)
    else:
        most = max_views or VIDEO_VIEWS
        size, pictures = partial(_video_bytes, video, most), partial(_frames, video, every, most)
    if left_out:
        progress(not_read(left_out))
    write = partial(_write_scene, out, name, settings, pictures, [not_read(left_out, shown=None)] if left_out else [])
    summary = prepare_scenes([Task(name, settings, size, write)], out, 1, progress)
    scenes = sorted(path.parent.name for path in out.glob('*/scene.json'))
    write_splits(out, {}, scenes, 'Reconstruct one with tools/infer.py.', progress)
    return summary


def _check_same_source(scene: Path, folder: str) -> None:
    """Refuse to put a scene in the place of one of the same name that was made of other files."""
    if not SceneFolder(scene).exists():
        return
    try:
        made_of = SceneFolder(scene).record.settings.get('folder', 'an unknown folder')
    except DataError:                                                       # damaged, or an older format: prepared again
        return
    if made_of != folder:
        raise DataError(f'{scene} is there already, made of files in {made_of}, and these files are in {folder}. Give this '
                        'scene another name with --name, or remove the other one.')


class Picture(NamedTuple):
    """A picture of the scene: (H, W) upright, encoded with its suffix, and (file, remark) on how it was read."""

    name: str
    index: int
    size: tuple[int, int]
    encoded: bytes
    suffix: str
    remarks: list[tuple[str, str]]


def _write_scene(out: Path, name: str, settings: dict, pictures: Callable[[], Iterator[Picture]],
                 known: list[str]) -> list[str]:
    """Write the scene; pictures of each size share a camera of which nothing but the size is known.

    Returns notes for people; `known` ones, which they have read already, stand in the scene too.
    """
    frames, sizes, remarks = [], {}, {}
    with SceneWriter(out, name) as writer:
        for picture in pictures():
            writer.color(picture.name, picture.encoded, picture.suffix)
            frames.append(Frame(picture.name, picture.index, sizes.setdefault(picture.size, len(sizes)), None))
            remarks |= dict.fromkeys(picture.remarks)
        cameras = [Camera(size, None, None, None) for size in sizes]
        notes = [f'pictures of {len(sizes)} sizes'] if len(sizes) > 1 else []
        notes += remarks_on(remarks)
        writer.finish(SceneRecord(name, SOURCE, cameras, frames, None, settings, [*known, *notes]))
    return notes


def _own_name(source: Path) -> str:
    """Return the name of a folder, or that of a file without its suffix."""
    return source.name if source.is_dir() else source.stem


def _photos(files: list[tuple[int, tuple[str, Path]]]) -> Iterator[Picture]:
    """Yield photos; each is decoded once, so that a broken one is found now."""
    paths = [path for _, (_, path) in files]
    for (index, (stem, path)), photo in zip(files, read_together(paths, MAX_PIXELS), strict=True):
        encoded, suffix = _as_it_is(path, photo)
        remarks = [(photo.file, note) for note in photo.notes]
        yield Picture(stem, index, photo.pixels.shape[:2], encoded or encode_png8(photo.pixels), suffix, remarks)


def _as_it_is(path: Path, photo: Photo) -> tuple[bytes | None, str]:
    """Return the bytes of a file that a scene can hold as it is, and its suffix by its content; else None and '.png'."""
    data = path.read_bytes()
    kind = sniff(data)
    plain = kind in COPIED and photo.pixels.shape[:2] == photo.size and read_samples(data, kind) is None
    return (data, COPIED[kind]) if plain else (None, '.png')


def _frames(video: Path, every: int, max_views: int) -> Iterator[Picture]:
    count = count_frames(video)
    chosen = _chosen(range(count), every, max_views)
    if not chosen:
        raise DataError(f'{video}: no frame can be decoded. Extract its frames (ffmpeg -i {shlex.quote(video.name)} '
                        'frames/%05d.jpg) and give their folder.')
    remarks = frames_chosen(video, len(chosen), count, every, max_views)
    with closing(VideoFrames(video)) as frames:
        for index, _ in chosen:
            picture = frames.frame(index)
            yield Picture(f'frame_{index:06d}', index, picture.shape[:2], encode_jpeg(picture), '.jpg', remarks)


def _chosen(items: Sequence, every: int, max_views: int | None) -> list[tuple[int, object]]:
    """Return (number, item) of each n-th item, at most `max_views`, spread evenly."""
    numbered = list(enumerate(items))[::every]
    return [numbered[place] for place in spread_views(len(numbered), max_views)]


def _total_bytes(files: list[Path]) -> float:
    return sum(path.stat().st_size for path in files)


def _video_bytes(video: Path, views: int) -> float:
    with closing(VideoFrames(video)) as frames:
        return views * np.prod(frames.frame(0).shape[:2]) * BYTES_PER_PIXEL
