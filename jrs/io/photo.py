"""One photo: which kind of file it is by its first bytes, and its pixels as 8-bit RGB (docs/photos.md).

Pillow opens the one format that the first bytes name, and no other: for some it would run programs. A picture of more than
8 bits a sample goes through `jrs.io.wide`. What cannot be read is broken, too large or not supported; messages say which.
"""

from __future__ import annotations

import io
import math
import os
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from PIL import ExifTags, Image, features

from jrs.errors import DataError
from jrs.io.names import readable
from jrs.io.png import BROKEN_PICTURE
from jrs.io.wide import NotSupported, Samples, count_pages, read_samples, to_8_bits, undeclared_bits, wide_values

HEAD = 64                                       # first bytes that tell the kind of a file
LARGE = 178_956_970                             # pixels; above it a picture is read reduced (Pillow by itself refuses)
LARGEST_JPEG = 1 << 30                          # pixels; reduced while it is decoded, but results have its size
LARGEST_PROGRESSIVE = (1 << 31) // 6             # of a progressive one all coefficients are held, 6 bytes for a pixel
MOST_BYTES = 1 << 30                            # of decoded pixels of other kinds
PILLOW_BYTES = 4                                # of a pixel in Pillow, RGB or RGBA
PHOTO_KINDS = ('JPEG', 'PNG', 'WEBP', 'BMP', 'TIFF', 'GIF', 'HEIF', 'AVIF')
VIDEO = 'video'
SIGNS = {                                       # first bytes -> kind; those of PHOTO_KINDS as Pillow calls them
    b'\xff\xd8\xff': 'JPEG', b'\x89PNG\r\n\x1a\n': 'PNG', b'GIF87a': 'GIF', b'GIF89a': 'GIF', b'II*\0': 'TIFF',
    b'MM\0*': 'TIFF', b'II+\0': 'TIFF', b'MM\0+': 'TIFF', b'BM': 'BMP', b'\xff\x0a': 'JPEG XL',
    b'\0\0\0\x0cJXL ': 'JPEG XL', b'\0\0\0\x0cjP  ': 'JPEG 2000', b'\xff\x4f\xff\x51': 'JPEG 2000', b'8BPS': 'Photoshop',
    b'%PDF': 'PDF', b'%!PS': 'PostScript', b'\x76\x2f\x31\x01': 'OpenEXR', b'#?RADIANCE': 'Radiance', b'DDS ': 'DDS',
    b'FUJIFILMCCD-RAW': 'raw', b'\x1a\x45\xdf\xa3': VIDEO, b'\0\0\1\xba': VIDEO, b'\0\0\1\xb3': VIDEO, b'FLV': VIDEO,
    b'\x30\x26\xb2\x75\x8e\x66\xcf\x11': VIDEO}
BRANDS = {'HEIF': (b'heic', b'heix', b'hevc', b'hevx', b'heim', b'heis', b'hevm', b'hevs', b'mif1', b'msf1'),
          'AVIF': (b'avif', b'avis'), 'raw': (b'crx ',)}        # of a file that begins with a box `ftyp`; else it is a video
FURTHER = {'GIF': 'frames', 'WEBP': 'frames', 'PNG': 'frames', 'AVIF': 'frames', 'HEIF': 'pictures', 'TIFF': 'pages',
           'JPEG': 'pictures'}
TURNS = {2: Image.Transpose.FLIP_LEFT_RIGHT, 3: Image.Transpose.ROTATE_180, 4: Image.Transpose.FLIP_TOP_BOTTOM,
         5: Image.Transpose.TRANSPOSE, 6: Image.Transpose.ROTATE_270, 7: Image.Transpose.TRANSVERSE,
         8: Image.Transpose.ROTATE_90}         # EXIF's orientation -> what makes it upright
SIDEWAYS = (5, 6, 7, 8)
PROGRESSIVE_JPEG, UNSUPPORTED_JPEG = (0xC2, 0xCA), (0xC3, 0xC5, 0xC6, 0xC7, 0xCB, 0xCD, 0xCE, 0xCF)
REFUSALS = ('upported', 'cannot handle', 'unknown pixel mode', 'not available')        # of Pillow, at what may be sound
STEREO = 'Multi-Frame'                          # begins the kind of a JPEG's further pictures that are no previews


@dataclass(frozen=True)
class Photo:
    """A picture as the network's side takes it.

    Attributes:
        pixels: (h, w, 3) uint8 RGB, upright.
        size: (H, W) of the file, upright; more than (h, w) where it was read reduced.
        file: its name.
        notes: what of the file was not read, or how its values were understood, for people.
    """

    pixels: np.ndarray
    size: tuple[int, int]
    file: str = ''
    notes: tuple[str, ...] = ()


def sniff(head: bytes) -> str:
    """Return which kind of file begins with `head`: one of `PHOTO_KINDS`, 'video', another kind's name, '' = unknown."""
    if head[4:8] == b'ftyp':
        boxes = [head[8:12], *(head[at:at + 4] for at in range(16, min(int.from_bytes(head[:4], 'big'), len(head)), 4))]
        found = [kind for brand in boxes for kind, brands in BRANDS.items() if brand in brands]
        return 'AVIF' if 'AVIF' in found else found[0] if found else VIDEO
    if head[:4] == b'RIFF':
        return {b'WEBP': 'WEBP', b'AVI ': VIDEO}.get(head[8:12], '')
    if head[:1] == b'P' and head[1:2] in b'1234567' and head[2:3] in b' \n\r\t':
        return 'portable anymap'
    return next((kind for sign, kind in SIGNS.items() if head.startswith(sign)), '')


def unsupported(kind: str) -> str:
    """Return why files of a kind cannot be read here and what to do, '' where they can."""
    if kind == 'HEIF' and find_spec('pillow_heif') is None:
        return 'a HEIC or HEIF picture, which needs pillow-heif: pip install "jrs[heif]", or convert it to JPEG'
    if kind == 'AVIF' and not ('avif' in features.modules and features.check_module('avif')):
        return 'an AVIF picture, which needs Pillow 11.3 or newer: pip install -U pillow, or convert it to JPEG'
    if kind == 'raw':
        return 'the raw file of a camera: convert it to JPEG or PNG'
    if kind == VIDEO:
        return 'a video: give it by itself'
    return '' if kind in PHOTO_KINDS else f'a file of kind {kind}: convert it to JPEG or PNG' if kind else 'no picture'


def read_photo(path: str | os.PathLike) -> np.ndarray:
    """Return the picture in `path`, upright, as (h, w, 3) uint8 RGB (`open_photo`)."""
    return open_photo(path).pixels


def open_photo(path: str | os.PathLike, bits: int | None = None, most: int = LARGE) -> Photo:
    """Return the picture in `path` as 8-bit RGB: turned as EXIF says, alpha over white, no colour profile applied.

    Args:
        path: a file of `PHOTO_KINDS`, whatever its suffix.
        bits: depth of integers of more than 8 bits for which the file declares none, such as `common_bits` finds for
            pictures that belong together; None takes what this one holds.
        most: a picture of more pixels is reduced by the least whole number.

    Raises:
        DataError: there is no such file; it is broken, too large, or of a kind or variant that is not supported.
    """
    path = Path(path)
    data = _bytes_of(path)
    kind = sniff(data[:HEAD])
    if reason := unsupported(kind):
        raise _broken(path, f'it begins with {data[:12]!r}, as no picture does') if not kind else _refused(path, reason)
    try:
        with _limits():
            pixels, size, notes = _decode(data, kind, path, bits, most)
            return Photo(pixels, size, readable(path.name), tuple(notes))
    except MemoryError as error:
        raise DataError(f'The photo {path} cannot be read: it is too large for the memory of this machine. Make it '
                        'smaller.') from error
    except BROKEN_PICTURE as error:
        raise _told(error, kind, path) from error


def photo_size(path: str | os.PathLike) -> tuple[int, int]:
    """Return (H, W) of a picture from its header, as it is stored; raises a DataError where it is none."""
    with opened(path) as picture:
        return picture.size[::-1]


@contextmanager
def opened(path: str | os.PathLike) -> Iterator[Image.Image]:
    """Open a picture without decoding it; raises a DataError as `open_photo` does, inside the block too."""
    path = Path(path)
    data = _bytes_of(path)
    kind = sniff(data[:HEAD])
    if reason := unsupported(kind):
        raise _refused(path, reason)
    try:
        with _limits(), _plugin(kind)(io.BytesIO(data), '') as picture:
            yield picture
    except BROKEN_PICTURE as error:
        raise _told(error, kind, path) from error


def common_bits(paths: Sequence[str | os.PathLike]) -> int | None:
    """Return the depth that holds the values of all pictures of more than 8 bits that declare none; None without any.

    Pictures of one scene were taken by one camera: a dark one must not become as light as the others.
    """
    found = [bits for path in paths if (bits := _undeclared_bits(Path(path))) is not None]
    return max(found, default=None)


def over_white(picture: Image.Image) -> Image.Image:
    """Return a picture of 8 bits a channel or fewer as RGB; transparent parts become white (PIL's 8-bit alpha_composite)."""
    picture = _direct(picture)
    if picture.mode == 'RGB':
        return picture
    return Image.alpha_composite(Image.new('RGBA', picture.size, (255, 255, 255, 255)), picture).convert('RGB')


def _direct(picture: Image.Image) -> Image.Image:
    """Return a picture of 8 bits a channel or fewer as RGB, or as RGBA where parts are transparent."""
    if picture.mode == 'LAB':
        raise NotSupported('colours as CIELab')
    mode = 'RGBA' if picture.mode[-1:] in 'Aa' or 'transparency' in picture.info else 'RGB'
    return picture if picture.mode == mode and 'transparency' not in picture.info else picture.convert(mode)


def _bytes_of(path: Path) -> bytes:
    if not path.exists():
        raise DataError(f'There is no photo {path}.')
    try:
        data = path.read_bytes()                # of a file PIL would reserve as many bytes as a chunk announces
    except OSError as error:
        raise DataError(f'The photo {path} cannot be opened ({error.strerror}).') from error
    if not data:
        raise DataError(f'The photo {path} is an empty file (0 bytes); remove it or copy it again.')
    return data


def _broken(path: Path, why: str) -> DataError:
    return DataError(f'The photo {path} cannot be read: it is broken ({why[:200]}); remove it or copy it again.')


def _told(error: Exception, kind: str, path: Path) -> DataError:
    """Return what to say of a file of `kind` at which Pillow or `jrs.io.wide` raised `error`."""
    why = str(error)
    if isinstance(error, NotSupported) or any(words in why for words in REFUSALS):
        return _refused(path, f'a {kind} of a variant that is not supported ({why}): save it as 8-bit JPEG or PNG')
    return _broken(path, why)


def _refused(path: Path, why: str) -> DataError:
    return DataError(f'The photo {path} cannot be read: it is {why}.')


def _decode(data: bytes, kind: str, path: Path, bits: int | None,
            most: int) -> tuple[np.ndarray, tuple[int, int], list[str]]:
    """Return pixels, size and notes of a file of `kind`; raises what Pillow raises on broken files, and ours."""
    samples = read_samples(data, kind)
    if samples is not None and kind == 'TIFF':                          # Pillow opens few of these
        _check_size(data, kind, samples.size, samples, path)
        upright, notes = to_8_bits(wide_values(data, samples), samples, bits)           # turned by OpenCV
        return _finished(upright, upright.size[::-1], [*_further(None, kind, data), *notes], most)
    with _plugin(kind)(io.BytesIO(data), '') as picture:
        size = picture.size[::-1]
        _check_size(data, kind, size, samples, path)
        notes = _further(picture, kind, data)
        if (shrink := _shrink(size, most)) > 1:
            picture.draft(None, (size[1] // shrink, size[0] // shrink))                 # JPEG is decoded reduced
        picture.load()
        turn, more = _orientation(picture)                                              # none where Pillow has turned it
        size = picture.size[::-1] if kind == 'TIFF' else size
        upright = picture
        if samples is not None:                                                         # a PNG, sound as Pillow read it
            upright, words = to_8_bits(wide_values(data, samples), samples, bits)
            more += words
        if turn in TURNS:
            upright = upright.transpose(TURNS[turn])
        return _finished(upright, size[::-1] if turn in SIDEWAYS else size, [*notes, *more], most)


def _finished(upright: Image.Image, size: tuple[int, int], notes: list[str],
              most: int) -> tuple[np.ndarray, tuple[int, int], list[str]]:
    """Return a picture, which may have been reduced, as RGB of at most `most` pixels; `size` (H, W) is the file's."""
    if (shrink := _shrink(upright.size, most)) > 1:
        upright = _direct(upright).reduce(shrink)
    pixels = np.asarray(over_white(upright))                            # (h, w, 3)
    if pixels.shape[:2] != size:
        notes = [*notes, f'{size[1]} x {size[0]} are {_millions(size)} million pixels: read reduced to {pixels.shape[1]} x '
                 f'{pixels.shape[0]}']
    return pixels, size, notes


def _shrink(sides: tuple[int, int], most: int) -> int:
    """Return the least whole number by which both sides are divided for at most `most` pixels."""
    return max(1, math.ceil(math.sqrt(sides[0] * sides[1] / most)))


def _check_size(data: bytes, kind: str, size: tuple[int, int], samples: Samples | None, path: Path) -> None:
    """Raise a DataError where decoding would take too much memory, before it does."""
    if min(size) < 1:
        raise ValueError(f'{size[1]} x {size[0]} pixels')
    marker = jpeg_process(data) if kind == 'JPEG' else 0
    if marker in UNSUPPORTED_JPEG:
        raise NotSupported('it is lossless or hierarchical')
    most = LARGEST_JPEG if kind == 'JPEG' else MOST_BYTES // PILLOW_BYTES
    if marker in PROGRESSIVE_JPEG:
        most = LARGEST_PROGRESSIVE
    if samples is not None:
        most = MOST_BYTES // (samples.channels * samples.bits // 8)
    if size[0] * size[1] > most:
        baseline = '' if most == LARGEST_JPEG else ', or save it as baseline JPEG, which is decoded at a reduced size'
        raise DataError(f'The photo {path} cannot be read: it is too large. {size[1]} x {size[0]} are {_millions(size)} '
                        f'million pixels, and of such a {kind} {most // 10 ** 6} million can be read: make it smaller'
                        f'{baseline}.')


def jpeg_process(data: bytes) -> int:
    """Return the marker of a JPEG's frame, which says how it is coded: 0xC0 baseline, 0xC2 progressive; 0 without one."""
    at = 2
    while at + 4 <= len(data) and data[at] == 0xFF:
        marker = data[at + 1]
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            return marker
        at += 1 if marker == 0xFF else 2 + int.from_bytes(data[at + 2:at + 4], 'big')
    return 0


def _further(picture: Image.Image | None, kind: str, data: bytes) -> list[str]:
    """Say how many pictures a file holds beside the first, which is read."""
    if kind == 'TIFF':
        count = count_pages(data)
    elif kind == 'JPEG':                        # beside the first: previews and gain maps of it, or what a second lens saw
        entries = (getattr(picture, 'mpinfo', None) or {}).get(0xB002, ())
        count = sum(str(entry['Attribute']['MPType']).startswith(STEREO) for entry in entries)
    else:
        try:
            count = getattr(picture, 'n_frames', 1)
        except BROKEN_PICTURE:                  # of a later one; the first may be sound
            return [f'only the first of its {FURTHER[kind]} read']
    return [f'first of {count} {FURTHER[kind]} read'] if count > 1 else []


def _orientation(picture: Image.Image) -> tuple[int, list[str]]:
    """Return EXIF's orientation, 1 = upright, and a note where EXIF cannot be read: the picture itself may be sound."""
    try:
        return picture.getexif().get(ExifTags.Base.Orientation, 1), []
    except BROKEN_PICTURE:
        return 1, ['its EXIF data cannot be read: taken as upright']


def _millions(size: tuple[int, int]) -> str:
    return f'{size[0] * size[1] / 1e6:.1f}'


def _undeclared_bits(path: Path) -> int | None:
    """Return what `undeclared_bits` says of a file; None also for one that cannot be read, which its reader will say."""
    try:
        with open(path, 'rb') as file:
            head = file.read(HEAD)
        if (kind := sniff(head)) == 'PNG' and read_samples(head, kind) is None or kind not in ('PNG', 'TIFF'):
            return None
        return undeclared_bits(path.read_bytes(), kind)
    except BROKEN_PICTURE:
        return None


@contextmanager
def _limits() -> Iterator[None]:
    """Let Pillow open what `_check_size` allows, and keep its warnings for itself."""
    before, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, LARGEST_JPEG
    try:
        with warnings.catch_warnings():
            warnings.simplefilter('ignore')
            yield
    finally:
        Image.MAX_IMAGE_PIXELS = before


def _plugin(kind: str) -> Callable:
    """Return what opens files of a kind: Pillow's own class, so that its reason for a refusal is heard."""
    _register()
    return Image.OPEN[kind][0]


@cache
def _register() -> None:
    Image.init()
    if find_spec('pillow_heif') is not None:
        import pillow_heif
        pillow_heif.register_heif_opener()
