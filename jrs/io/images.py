"""Photos and videos in, network input out, with the map back to the original pixels.

Rules bring a picture to a size that the network takes: `resize_lanczos`, the released SegVGGT's (segvggt_release.md
section 8), `resize_bicubic`, plain VGGT's (vggt.md section 12), and `resize_area`. All say where an original
pixel went: a 3 x 3 affine map of (u, v, 1), pixel centres at integers, so that masks and intrinsics can be taken back.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache, partial
from pathlib import Path
from typing import NamedTuple

import mmcv
import numpy as np
import torch
from PIL import Image
from torch import Tensor

from jrs.errors import DataError
from jrs.io.names import distinct_files, distinct_names, expanded, readable
from jrs.io.photo import LARGE, Photo, common_bits, open_photo, over_white
from jrs.io.photo_files import KINDS, PHOTO_SUFFIXES, is_video, not_read, reasons, remarks_on, why_not_read
from jrs.io.video import RepeatedFrames, announced_frames, open_video

AREA = 255000                                  # pixels of a view of Pi3 as released
MISCOUNTED = 1.02                              # a header may announce so many times the frames that there are
VIDEO_VIEWS = 24                               # frames taken from a video when nobody says how many

Resize = Callable[[np.ndarray, int, int], tuple[np.ndarray, np.ndarray]]


@dataclass(frozen=True)
class Original:
    """The picture that a view was made from.

    Attributes:
        read: returns it, upright, (h, w, 3) uint8 RGB, from its file.
        path: of the file; None for network input that has none.
        frame: its number in a video; None for a photo.
    """

    read: Callable[[], np.ndarray]
    path: Path | None = None
    frame: int | None = None


@dataclass
class LoadedPhotos:
    """Views ready for the network, and how to get back to the files they came from.

    Attributes:
        images: (V, 3, H, W) float32 in [0, 1], RGB.
        valid: (V, H, W) bool, False where a view was padded to the common size.
        names: V names, usable as those of files and apart (`jrs.io.names.distinct`).
        original_sizes: V pairs (height, width) in pixels, after EXIF rotation.
        input_from_original: (V, 3, 3) float64, maps original pixels (u, v, 1) to pixels of `images`; both with pixel
            centres at integers.
        originals: V pictures that the views were made from.
        left_out: name of a file of the source that is no view -> why.
        notes: (file, what of it was not read, or how it was understood); file '' is the source itself.
    """

    images: Tensor
    valid: Tensor
    names: list[str]
    original_sizes: list[tuple[int, int]]
    input_from_original: Tensor
    originals: list[Original]
    left_out: dict[str, str] = field(default_factory=dict)
    notes: list[tuple[str, str]] = field(default_factory=list)

    @property
    def sources(self) -> list[dict[str, str | int]]:
        """What results say of where views come from: each one's `file`, and the `frame` in a video."""
        paths = dict.fromkeys(original.path for original in self.originals if original.path is not None)
        files = dict(zip(paths, distinct_files(paths), strict=True))
        said = ({'file': files.get(original.path), 'frame': original.frame} for original in self.originals)
        return [{key: value for key, value in entry.items() if value is not None} for entry in said]

    @property
    def remarks(self) -> list[str]:
        """What people should know of the source, line by line: files that were not read, and how others were."""
        return [line for line in (not_read(self.left_out), *remarks_on(self.notes)) if line]

    @classmethod
    def together(cls, parts: Sequence[LoadedPhotos]) -> LoadedPhotos:
        """Return views that were loaded apart, all of one input size, as one."""
        tensors = {name: torch.cat([getattr(part, name) for part in parts])
                   for name in ('images', 'valid', 'input_from_original')}
        lists = {name: [value for part in parts for value in getattr(part, name)]
                 for name in ('names', 'original_sizes', 'originals')}
        notes = list(dict.fromkeys(note for part in parts for note in part.notes))
        left_out = {name: why for part in parts for name, why in part.left_out.items()}
        return cls(**tensors, **lists, left_out=left_out, notes=notes)

    @classmethod
    def of_input(cls, images: Tensor, names: Sequence[str]) -> LoadedPhotos:
        """Wrap network input (V, 3, H, W) that has no files behind it: it is its own original."""
        views, _, height, width = images.shape
        identity = torch.eye(3, dtype=torch.float64).expand(views, 3, 3)
        valid = torch.ones(views, height, width, dtype=torch.bool)
        originals = [Original(partial(_to_picture, image)) for image in images]
        return cls(images, valid, list(names), [(height, width)] * views, identity, originals)


def load_photos(source: str | Path | Sequence[str | Path], width: int = 518, patch_size: int = 14,
                max_views: int | None = None, every: int = 1, resize: Resize | None = None) -> LoadedPhotos:
    """Load the views of one scene.

    Photos become upright 8-bit RGB (`jrs.io.photo.open_photo`). Each is resized by `resize`; views that end with different
    heights are centred on white at the largest (vggt.md section 12) and `valid` marks the padding.

    Args:
        source: a folder of photos (sorted as people count: 2 before 10; what else is in it is named in `left_out`), a scene
            folder (its colour images), one photo, a list of photos, or one video.
        width: width of the network input, a multiple of `patch_size`.
        patch_size: heights are rounded to multiples of it.
        max_views: at most so many views, evenly spaced; None takes all photos, and 24 frames of a video.
        every: take each n-th photo or frame.
        resize: `resize_lanczos` (default), `resize_bicubic`, or a backbone's own; it may make any width of `width`.

    Raises:
        DataError: nothing there, unknown kind of file, or a file that cannot be read; names it.
    """
    return _assemble(_read_source(source, width, patch_size, max_views, every, VIDEO_VIEWS), width, patch_size,
                     resize or resize_lanczos)


def each_photo(source: str | Path | Sequence[str | Path], width: int = 518, patch_size: int = 14,
               max_views: int | None = None, every: int = 1, resize: Resize | None = None) -> Iterator[LoadedPhotos]:
    """Yield the views of one scene one at a time, read when they are asked for.

    Args:
        source, width, patch_size, every, resize: as of `load_photos`.
        max_views: at most so many, evenly spaced; None takes all photos, and all frames of a video.

    Raises:
        DataError: as `load_photos`; or a view has another size than the first, which are not brought together here.
    """
    shape, whole = None, _read_source(source, width, patch_size, max_views, every, None)
    for place in whole.views:
        view = _assemble(replace(whole, views=[place]), width, patch_size, resize or resize_lanczos)
        found = tuple(view.images.shape[-2:])
        shape = shape or found
        if found != shape:
            raise DataError(f'{place.name} becomes {found[0]} x {found[1]} pixels and the first view {shape[0]} x {shape[1]}'
                            ': views that come one at a time are of one shape. Leave it out, or load all at once.')
        yield view


class SourceViews:
    """The views of one scene, named but not read: `load` reads some of them.

    Args:
        source, width, patch_size, every, resize: as of `load_photos`.
        max_views: as of `each_photo`.
        kept: so many of the pictures read last are kept, so that a video is not gone through again for them.
        always: which views' pictures are kept, once read.

    Raises:
        DataError: as `load_photos`.
    """

    def __init__(self, source: str | Path | Sequence[str | Path], width: int = 518, patch_size: int = 14,
                 max_views: int | None = None, every: int = 1, resize: Resize | None = None, kept: int = 0,
                 always: Collection[int] = ()) -> None:
        self._whole = _read_source(source, width, patch_size, max_views, every, None)
        self._size, self._resize = (width, patch_size), resize or resize_lanczos
        self._always = frozenset(always)
        self._open, self._open_once = (lru_cache(most)(lambda place: self._whole.views[place].open())
                                       for most in (kept, None))
        self.left_out, self.notes = self._whole.left_out, self._whole.notes

    def __len__(self) -> int:
        return len(self._whole.views)

    @property
    def names(self) -> list[str]:
        """V names, usable as those of files and apart."""
        return [view.name for view in self._whole.views]

    @property
    def originals(self) -> list[Original]:
        """V pictures that the views are made from."""
        return [view.original for view in self._whole.views]

    def load(self, places: Iterable[int]) -> LoadedPhotos:
        """Return some of the views, by number, padded to their common size."""
        views = []
        for place in places:
            read = self._open_once if place in self._always else self._open
            views.append(self._whole.views[place]._replace(open=partial(read, place)))
        return _assemble(replace(self._whole, views=views), *self._size, self._resize)


class _View(NamedTuple):
    """A view of a source, not read yet; `again` reads it another time, for results."""

    name: str
    open: Callable[[], Photo]
    again: Callable[[], Photo]
    path: Path
    frame: int | None = None

    @property
    def original(self) -> Original:
        """The picture that it is made from."""
        return Original(lambda: self.again().pixels, self.path, self.frame)


@dataclass
class _Source:
    """What a source gives: its views, and what else is to be said of it (`LoadedPhotos`)."""

    views: list[_View]
    left_out: dict[str, str]
    notes: list[tuple[str, str]]


def _read_source(source: str | Path | Sequence[str | Path], width: int, patch_size: int, max_views: int | None, every: int,
                 video_views: int | None) -> _Source:
    """Return what `source` gives; of a video `video_views` at most."""
    if width < patch_size or width % patch_size:
        raise DataError(f'The input width must be a positive multiple of the patch size {patch_size}, got {width}.')
    if every < 1 or (max_views is not None and max_views < 1):
        raise DataError(f'`every` and `max_views` must be at least 1, got every={every}, max_views={max_views}.')
    video = as_video(source)
    if video is not None:
        return _frames(video, max_views or video_views, every)
    found, left_out = find_photos(source)
    named = _pick(list(zip(distinct_names(found), found, strict=True))[::every], max_views)
    files = [path for _, path in named]
    bits = common_bits(files)
    return _Source([_View(name, *2 * [partial(open_photo, path, bits)], path) for name, path in named],
                   left_out | not_chosen(found, files, every, max_views), [])


def read_together(files: Sequence[Path], most: int = LARGE) -> Iterator[Photo]:
    """Yield the photos of one scene, each read when it is asked for, of at most `most` pixels."""
    bits = common_bits(files)
    for path in files:
        yield open_photo(path, bits, most)


def not_chosen(found: Sequence[Path], chosen: Sequence[Path], every: int, max_views: int | None) -> dict[str, str]:
    """Return name -> why of the photos that were found and are no views."""
    why = f'not chosen: {chosen_by(every, max_views, "photo")}'
    taken = {*chosen}
    return {name: why for name, path in zip(distinct_files(found), found, strict=True) if path not in taken}


def chosen_by(every: int, max_views: int | None, what: str) -> str:
    """Say by which rule views are chosen of photos or frames."""
    rules = [f'one {what} in {every}' if every > 1 else '', f'at most {max_views}, evenly spaced' if max_views else '']
    return ', '.join(rule for rule in rules if rule)


def list_photos(source: str | Path | Sequence[str | Path]) -> list[Path]:
    """Return the photo files that `source` means (`find_photos`)."""
    return find_photos(source)[0]


def find_photos(source: str | Path | Sequence[str | Path]) -> tuple[list[Path], dict[str, str]]:
    """Return the photo files that `source` (folder, file or list of files) means, a folder's in natural order.

    Returns:
        The files; and name -> why of what else a folder holds.

    Raises:
        DataError: a path does not exist or is no photo, or the folder or list holds none.
    """
    if not isinstance(source, (str, Path)):
        return _checked_list([expanded(item) for item in source]), {}
    source = expanded(source)
    if not source.is_dir():
        return _checked_list([source]), {}
    if (source / 'scene.json').is_file() and (source / 'color').is_dir():   # a scene folder: its colour images
        source = source / 'color'
    there = sorted(source.iterdir(), key=_place)
    why = {path: 'hidden' if path.name.startswith('.') else why_not_read(path) for path in there}
    others = {path: reason for path, reason in why.items() if reason}
    left_out = dict(zip(distinct_files(others), others.values(), strict=True))
    files = [path for path, reason in why.items() if not reason]
    if not files:
        held = f'It holds {reasons(left_out)}.' if left_out else 'It is empty.'
        raise DataError(f'No photos in the folder {source}. {held} Photos end in {", ".join(PHOTO_SUFFIXES)}; '
                        f'a video is given as a file, not as its folder.')
    return files, left_out


def resize_lanczos(picture: np.ndarray, width: int = 518, patch_size: int = 14) -> tuple[np.ndarray, np.ndarray]:
    """Resize by the released SegVGGT's rule (segvggt_release.md section 8), exact in 8 bits.

    The new height is round(h * width / w / patch_size) * patch_size (half to even, at least one patch), the filter is
    OpenCV's Lanczos-4, and a picture that ends taller than `width` keeps its central `width` rows.

    Args:
        picture: (h, w, 3) uint8.

    Returns:
        The resized picture (h', width, 3) uint8, and the 3 x 3 float64 map from original to resized pixels.
    """
    return _to_width(picture, width, patch_size, 'lanczos')


def resize_area(picture: np.ndarray, width: int = 518, patch_size: int = 14) -> tuple[np.ndarray, np.ndarray]:
    """Resize (h, w, 3) uint8 as `resize_lanczos` does, by the filter 'area' of `resample`, training's own."""
    return _to_width(picture, width, patch_size, 'area')


def _to_width(picture: np.ndarray, width: int, patch_size: int, kind: str) -> tuple[np.ndarray, np.ndarray]:
    height_0, width_0 = picture.shape[:2]
    height = max(round(height_0 * width / width_0 / patch_size), 1) * patch_size
    resized = resample(picture, (height, width), kind)
    top = max(height - width, 0) // 2
    return resized[top:top + width], resize_map(width / width_0, height / height_0, 0, -top)


def resample(picture: np.ndarray, size: tuple[int, int], kind: str) -> np.ndarray:
    """Return a picture (h, w, 3) uint8 at `size` (H, W).

    Args:
        picture: what to resize.
        size: of the result.
        kind: 'lanczos' is OpenCV's Lanczos-4, which aliases where it shrinks; 'area' averages where it shrinks and is
            bicubic where it grows; 'bicubic' is PIL's, which averages too.
    """
    if kind == 'bicubic':
        return _bicubic(picture, size[1], size[0])
    if kind == 'area':
        kind = 'area' if size[0] < picture.shape[0] else 'bicubic'
    return mmcv.imresize(np.ascontiguousarray(picture), size[::-1], interpolation=kind, backend='cv2')


def resize_bicubic(picture: np.ndarray, width: int = 518, patch_size: int = 14) -> tuple[np.ndarray, np.ndarray]:
    """Resize by plain VGGT's rule "crop" (vggt.md section 12): PIL bicubic, else as `resize_lanczos`.

    A picture (h, w, 3) uint8 becomes (h', width, 3) uint8; behind it the (3, 3) float64 map from original to resized pixels.
    """
    height_0, width_0 = picture.shape[:2]
    height = max(round(height_0 * (width / width_0) / patch_size), 1) * patch_size
    resized = _bicubic(picture, width, height)
    top = max(height - width, 0) // 2
    return resized[top:top + width], resize_map(width / width_0, height / height_0, 0, -top)


def pad_bicubic(picture: np.ndarray, width: int = 518, patch_size: int = 14) -> tuple[np.ndarray, np.ndarray]:
    """Resize by plain VGGT's rule "pad" (vggt.md section 12): longer side to `width`, white bars make a square.

    A picture (h, w, 3) uint8 becomes (width, width, 3) uint8; behind it the (3, 3) float64 map from old to new pixels.
    """
    height_0, width_0 = picture.shape[:2]
    side = width
    if width_0 >= height_0:
        new_width, new_height = side, max(round(height_0 * (side / width_0) / patch_size), 1) * patch_size
    else:
        new_width, new_height = max(round(width_0 * (side / height_0) / patch_size), 1) * patch_size, side
    square, (left, top) = centre_on_white(_bicubic(picture, new_width, new_height), side, side)
    return square, resize_map(new_width / width_0, new_height / height_0, left, top)


def resize_to_area(picture: np.ndarray, width: int = 518, patch_size: int = 14) -> tuple[np.ndarray, np.ndarray]:
    """Resize by Pi3's rule (backbones.md section 1): whole patches, 255000 pixels at most, aspect all but kept, no crop.

    A picture (h, w, 3) uint8 becomes (h', w', 3) uint8 by PIL's Lanczos; behind it the (3, 3) float64 map from original to
    resized pixels. Another `width` than 518 changes the number of pixels by the square of their ratio.
    """
    height_0, width_0 = picture.shape[:2]
    limit = AREA * (width / 518) ** 2
    scale = (limit / (width_0 * height_0)) ** 0.5
    columns, rows = (max(round(side * scale / patch_size), 1) for side in (width_0, height_0))
    while columns * rows * patch_size ** 2 > limit and max(columns, rows) > 1:
        if (columns / rows > width_0 / height_0 and columns > 1) or rows == 1:
            columns -= 1
        else:
            rows -= 1
    size = columns * patch_size, rows * patch_size
    resized = np.asarray(Image.fromarray(picture).resize(size, Image.Resampling.LANCZOS))
    return resized, resize_map(size[0] / width_0, size[1] / height_0, 0, 0)


# Filters of training and test views by name -> the rule that brings a whole picture to the width of the input with it.
RESIZES: dict[str, Resize] = {'lanczos': resize_lanczos, 'area': resize_area, 'bicubic': resize_bicubic}


def load_vggt(pictures: Iterable[np.ndarray], rule: Resize = resize_bicubic, width: int = 518,
              patch_size: int = 14) -> Tensor:
    """Return what VGGT's own loader makes of pictures (h, w, 3 or 4) uint8: (V, 3, H, W) float32 in [0, 1].

    Mixed sizes are centred on white at the largest height and width (vggt.md section 12); four channels are laid over
    white.
    """
    resized = [rule(np.asarray(over_white(Image.fromarray(picture))), width, patch_size)[0] for picture in pictures]
    height, width = max(p.shape[0] for p in resized), max(p.shape[1] for p in resized)
    return torch.stack([_to_tensor(centre_on_white(picture, height, width)[0]) for picture in resized])


def centre_on_white(picture: np.ndarray, height: int, width: int) -> tuple[np.ndarray, tuple[int, int]]:
    """Return the picture (h, w, 3) centred on a white (height, width, 3) one, and (left, top), where it lies."""
    left, top = (width - picture.shape[1]) // 2, (height - picture.shape[0]) // 2
    canvas = np.full((height, width, 3), 255, dtype=np.uint8)
    canvas[top:top + picture.shape[0], left:left + picture.shape[1]] = picture
    return canvas, (left, top)


def resize_map(scale_u: float, scale_v: float, shift_u: float, shift_v: float) -> np.ndarray:
    """Return the 3 x 3 map of a resize followed by a shift; pixel centres at integers on both sides."""
    return np.array([[scale_u, 0.0, 0.5 * scale_u - 0.5 + shift_u],
                     [0.0, scale_v, 0.5 * scale_v - 0.5 + shift_v],
                     [0.0, 0.0, 1.0]])


def _place(path: Path) -> tuple:
    """Sort key of photos: by what results call them, so that a scene folder made of them has their order."""
    return natural_key(readable(path.stem)), path.name


def natural_key(name: str) -> list:
    """Sort key with numbers as people read them: `img2` before `img10`."""
    return [(0, int(part), '') if part.isdecimal() else (1, 0, part.lower()) for part in re.split(r'(\d+)', name) if part]


def _assemble(source: _Source, width: int, patch_size: int, resize: Resize) -> LoadedPhotos:
    """Read and resize one picture after the other, and centre all of them at the common size."""
    resized, maps, sizes, notes = [], [], [], list(source.notes)
    for view in source.views:
        photo = view.open()
        small, to_input = resize(photo.pixels, width, patch_size)
        resized.append(small)
        scales = [read / whole for read, whole in zip(photo.pixels.shape[:2], photo.size, strict=True)]
        maps.append(to_input @ resize_map(scales[1], scales[0], 0, 0))
        sizes.append(photo.size)
        notes += [(photo.file, note) for note in photo.notes]
    height, width = max(p.shape[0] for p in resized), max(p.shape[1] for p in resized)
    valid = torch.zeros(len(resized), height, width, dtype=torch.bool)
    for index, small in enumerate(resized):
        resized[index], (left, top) = centre_on_white(small, height, width)
        valid[index, top:top + small.shape[0], left:left + small.shape[1]] = True
        maps[index] = resize_map(1, 1, left, top) @ maps[index]
    images = torch.stack([_to_tensor(picture) for picture in resized])
    return LoadedPhotos(images, valid, [view.name for view in source.views], sizes, torch.from_numpy(np.stack(maps)),
                        [view.original for view in source.views], dict(source.left_out), notes)


def _to_tensor(picture: np.ndarray) -> Tensor:
    """(h, w, 3) uint8 -> (3, h, w) float32 in [0, 1]."""
    return torch.from_numpy(np.ascontiguousarray(picture)).permute(2, 0, 1).to(torch.float32).div(255)


def _to_picture(image: Tensor) -> np.ndarray:
    """(3, h, w) float32 in [0, 1] -> (h, w, 3) uint8."""
    return image.permute(1, 2, 0).mul(255).round().clamp(0, 255).to(torch.uint8).cpu().numpy()


def _bicubic(picture: np.ndarray, width: int, height: int) -> np.ndarray:
    return np.asarray(Image.fromarray(picture).resize((width, height), Image.Resampling.BICUBIC))


def as_video(source: str | Path | Sequence[str | Path]) -> Path | None:
    """Return the path when `source` names one video file, else None."""
    if not isinstance(source, (str, Path)):
        source = source[0] if len(source) == 1 else ''
    path = expanded(source)
    return path if is_video(path) else None


def _checked_list(files: list[Path]) -> list[Path]:
    if not files:
        raise DataError('No photos: the list is empty.')
    for path in files:
        if not path.exists():
            raise DataError(f'There is no file or folder {path}.')
        if reason := why_not_read(path):
            raise DataError(f'{path} is not a photo that can be read: {reason}. Allowed are photos ({KINDS}), one video, or '
                            'one folder of photos.')
    return files


def _pick(items: Sequence, count: int | None) -> list:
    """Return at most `count` items, evenly spaced, the first and the last among them."""
    if count is None or len(items) <= count:
        return list(items)
    return [items[round(position)] for position in np.linspace(0, len(items) - 1, count)]


def _frames(path: Path, max_views: int | None, every: int) -> _Source:
    """Return evenly spaced frames."""
    if not path.exists():
        raise DataError(f'There is no video {path}.')
    count = count_frames(path)
    wanted = _pick(range(0, count, every), max_views)
    if not wanted:
        raise DataError(f'No frame of the video {path} can be decoded: it is empty, damaged, or of a codec that OpenCV '
                        f'cannot read. Extract frames (ffmpeg -i {shlex.quote(path.name)} frames/%05d.jpg) and give '
                        'their folder.')
    readers = RepeatedFrames(path), RepeatedFrames(path)          # each goes through the video once, whatever the other does
    views = [_View(f'frame_{index:06d}', *(partial(_frame, reader, index) for reader in readers), path, index)
             for index in wanted]
    return _Source(views, {}, frames_chosen(path, len(wanted), count, every, max_views))


def frames_chosen(video: Path, chosen: int, count: int, every: int, max_views: int | None) -> list[tuple[str, str]]:
    """Return notes that say how many frames of a video are views, where not all are, and that it ends early."""
    name, announced = readable(video.name), announced_frames(video)
    notes = [] if chosen == count else [f'{chosen} of {count} frames read ({chosen_by(every, max_views, "frame")})']
    if announced > count * MISCOUNTED + 2:
        notes.append(f'its header announces {announced} frames, and {count} can be decoded: is it cut off?')
    return [(name, note) for note in notes]


def _frame(frames: RepeatedFrames, index: int) -> Photo:
    picture = frames.frame(index)
    return Photo(picture, picture.shape[:2])


def count_frames(path: Path) -> int:
    """Count the frames that decode; the number in a container's header is often wrong."""
    capture, count = open_video(path), 0
    while capture.isOpened() and capture.grab():
        count += 1
    capture.release()
    return count
