"""Pictures of more than 8 bits a sample, or whose samples Pillow does not read: 16-bit PNG, TIFF of integers and floats.

OpenCV gives the samples; what they mean is read from the file. Integers follow the depth that the file declares, else the
one that its values hold: cameras of 10 or 12 bits write 16-bit files whose values end at 1023 or 4095. Floats are [0, 1],
or of the range that a TIFF declares.
"""

from __future__ import annotations

import io
import struct
from collections.abc import Mapping
from dataclasses import dataclass

import cv2
import numpy as np
from PIL import Image
from PIL.TiffImagePlugin import ImageFileDirectory_v2

from jrs.io.png import CHANNELS, quiet_opencv

DEPTHS = (8, 10, 12, 16, 32)                    # bits that integers of 16 and 32 bits are taken to hold
MIN_IS_WHITE, MIN_IS_BLACK, RGB, CMYK, YCBCR, LAB = 0, 1, 2, 5, 6, 8            # TIFF's photometric interpretations
PLANES_APART = 2
JPEG_IN_TIFF = (6, 7)                           # compressions
SHIFTED = (10, 12, 14)                          # bits of samples that OpenCV brings to 16 by shifting
REDUCED_COPY = 1                                # bit of NewSubfileType
MOST_PAGES = 10_000
TOLERANCE = 1e-6                                # by which a float may leave [0, 1]
ROWS = 256                                      # brought to 8 bits at a time

FORMATS = {1: 'unsigned', 2: 'signed', 3: 'float', 4: 'unsigned'}               # TIFF's sample formats that are read
ALPHAS = {1: 'premultiplied', 2: 'straight'}                                    # TIFF's extra samples
COLOURS = {MIN_IS_WHITE: 'grey', MIN_IS_BLACK: 'grey', RGB: 'RGB', 3: 'palette', CMYK: 'CMYK', YCBCR: 'YCbCr', LAB: 'CIELab',
           32803: 'colour filter array', 34892: 'linear raw'}

Tags = Mapping[int, object]


class NotSupported(ValueError):
    """A picture that may be sound, and is of a variant that is not read; says which."""


@dataclass(frozen=True)
class Samples:
    """How a file keeps its samples.

    Attributes:
        size: (H, W).
        kind: 'unsigned', 'signed' or 'float'.
        bits: of a sample in the file.
        channels: per pixel, 1 to 4.
        inverted: 0 is white.
        alpha: 'straight', 'premultiplied', or '' where the last channel is no alpha.
        declared: the values that are black and white, where the file says so.
        transparent: the grey value that stands for "nothing here".
        whole: whether all samples that the file names are in it; False = it is cut off.
    """

    size: tuple[int, int]
    kind: str
    bits: int
    channels: int
    inverted: bool = False
    alpha: str = ''
    declared: tuple[float, float] | None = None
    transparent: int | None = None
    whole: bool = True

    @property
    def full(self) -> int:
        """The largest integer of so many bits."""
        return (1 << self.bits - (self.kind == 'signed')) - 1


def read_samples(data: bytes, kind: str) -> Samples | None:
    """Return how a PNG or TIFF keeps its samples; None where Pillow reads it: 8 bits a sample or fewer.

    Raises:
        NotSupported: a variant that nothing here reads. Also what Pillow raises on broken files.
    """
    if kind == 'PNG':
        return _png_samples(data)
    return _tiff_samples(data) if kind == 'TIFF' else None


def count_pages(data: bytes) -> int:
    """Return how many pictures a TIFF holds, reduced copies of others not counted."""
    return sum(not int(_numbers(tags, 254, (0,))[0]) & REDUCED_COPY for tags in _directories(data))


def wide_values(data: bytes, samples: Samples) -> np.ndarray:
    """Return the samples (H, W) or (H, W, 3 or 4) as they are in the file, colours in the order RGB, a TIFF's upright.

    Raises:
        ValueError: the file is cut off. NotSupported: OpenCV cannot decode it.
    """
    if not samples.whole:
        raise ValueError('cut off')
    try:
        with quiet_opencv():
            values = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    except cv2.error as error:
        raise NotSupported(f'OpenCV says {error.err}') from error
    if values is None or sorted(values.shape[:2]) != sorted(samples.size):
        raise NotSupported('OpenCV cannot decode it')
    if samples.bits in SHIFTED:
        values = values >> (16 - samples.bits)
    if samples.kind == 'unsigned' and values.dtype.kind == 'i':
        values = values.view(f'u{values.itemsize}')
    if values.dtype.kind != samples.kind[0].replace('s', 'i') or values.itemsize * 8 < samples.bits:
        raise NotSupported(f'{samples.kind} samples of {samples.bits} bits, of which OpenCV makes {values.dtype}')
    order = {3: [2, 1, 0], 4: [2, 1, 0, 3]}.get(values.shape[2]) if values.ndim == 3 else None
    return values if order is None else values[..., order]


def to_8_bits(values: np.ndarray, samples: Samples, bits: int | None = None) -> tuple[Image.Image, list[str]]:
    """Return samples (H, W) or (H, W, 3 or 4) as a picture of 8 bits (L, RGB, RGBA), and what was assumed, for people.

    Args:
        bits: depth of integers for which the file declares none; None takes what they hold.

    Raises:
        NotSupported: negative integers, floats that are not finite or outside [0, 1] or the declared range.
    """
    notes = []
    if samples.kind == 'float':
        (low, high), least = samples.declared or (0.0, 1.0), TOLERANCE
        found = float(values.min()), float(values.max())
        if not (low - least <= found[0] and found[1] <= high + least):              # NaN is neither
            declared = '' if samples.declared is None else f', outside the range from {low:g} to {high:g} that it declares'
            raise NotSupported(f'floats from {found[0]:g} to {found[1]:g}{declared}; bring them to [0, 1], or declare what '
                               'is black and white (SMinSampleValue, SMaxSampleValue)')
    else:
        low, high = 0, _white(values, samples, bits)
        if high != samples.full and samples.bits > 8:
            notes.append(f'{samples.bits}-bit samples whose values need {high.bit_length()} bits: read as such')
    small = _scaled(values, low, high)
    picture, words = _without_extras(255 - small if samples.inverted else small, values, samples)
    return picture, notes + words


def _without_extras(small: np.ndarray, values: np.ndarray, samples: Samples) -> tuple[Image.Image, list[str]]:
    """Return a picture (H, W[, 3 or 4]) uint8 in a mode that says which channel is alpha, and what was left out."""
    if samples.transparent is not None and values.ndim == 2:
        seen = np.where(values == samples.transparent, 0, 255).astype(np.uint8)
        return Image.fromarray(np.dstack([small] * 3 + [seen])), []
    if small.ndim == 2 or small.shape[2] == 3 or samples.alpha == 'straight':
        return Image.fromarray(np.ascontiguousarray(small)), []
    colours = np.ascontiguousarray(small[..., :3])
    if samples.alpha == 'premultiplied':                                        # white shines through
        return Image.fromarray(np.minimum(colours.astype(np.uint16) + 255 - small[..., 3:], 255).astype(np.uint8)), []
    return Image.fromarray(colours), ['its 4th channel, which it does not explain, was left out']


def held_bits(values: np.ndarray, samples: Samples) -> int:
    """Return the least usual depth that holds integers (H, W) or (H, W, C); of an 8-bit picture made wide, all bits."""
    most = int(values.max())
    if samples.bits == 16 and any(not (values % step).any() for step in (256, 257)):
        return samples.bits
    return next((depth for depth in DEPTHS if most < 1 << depth and depth < samples.bits), samples.full.bit_length())


def undeclared_bits(data: bytes, kind: str) -> int | None:
    """Return the depth that a file's integers hold where it declares none; None for all others."""
    samples = read_samples(data, kind)
    if samples is None or samples.kind == 'float' or samples.declared or samples.bits not in (16, 32):
        return None
    return held_bits(wide_values(data, samples), samples)


def _white(values: np.ndarray, samples: Samples, bits: int | None) -> int:
    """Return the integer that is white."""
    if values.dtype.kind == 'i' and int(values.min()) < 0:
        raise NotSupported(f'values from {values.min()} to {values.max()}, and there is no light below 0')
    if samples.declared is not None:
        return int(samples.declared[1])
    if samples.bits not in (16, 32):
        return samples.full
    held = held_bits(values, samples)
    return (1 << max(bits or held, held)) - 1


def _scaled(values: np.ndarray, low: float, high: float) -> np.ndarray:
    """Return values of any shape as uint8: `low` becomes 0 and `high` 255, to the nearest."""
    if values.dtype.itemsize <= 2 and values.dtype.kind in 'ui':
        table = np.rint(np.minimum(np.arange(1 << 16), high) * (255 / high)).astype(np.uint8)
        return table[values]
    small = np.empty(values.shape, np.uint8)
    for top in range(0, len(values), ROWS):
        part = (values[top:top + ROWS].astype(np.float64) - low) * (255 / (high - low))
        small[top:top + ROWS] = np.rint(np.clip(part, 0, 255))
    return small


def _png_samples(data: bytes) -> Samples | None:
    width, height, bits, color_type = struct.unpack('>IIBB', data[16:26])
    if bits != 16 or color_type not in CHANNELS:
        return None
    chunks = _png_chunks(data)
    grey_key = chunks.get(b'tRNS', b'') if color_type == 0 else b''
    declared = (0, 65535) if 16 in chunks.get(b'sBIT', b'') else None           # fewer may stand high or low in the sample
    return Samples((height, width), 'unsigned', 16, CHANNELS[color_type], alpha='straight', declared=declared,
                   transparent=int.from_bytes(grey_key, 'big') if grey_key else None, whole=b'IEND' in data[-16:])


def _png_chunks(data: bytes) -> dict[bytes, bytes]:
    """Return name -> content of the chunks before the pixels."""
    found, at = {}, 8
    while at + 8 <= len(data) and data[at + 4:at + 8] not in (b'IDAT', b'IEND'):
        length = int.from_bytes(data[at:at + 4], 'big')
        found[data[at + 4:at + 8]] = data[at + 8:at + 8 + length]
        at += 12 + length
    return found


def _directories(data: bytes) -> list[Tags]:
    """Return the tags of each page of a TIFF."""
    large = 43 in (data[2], data[3])                                            # BigTIFF
    directory, stream = ImageFileDirectory_v2(data[:16 if large else 8]), io.BytesIO(data)
    pages, seen, at = [], set(), directory.next
    while at and at not in seen and len(seen) < MOST_PAGES:
        seen.add(at)
        stream.seek(at)
        directory.load(stream)
        pages.append(dict(directory))
        at = directory.next
    if not pages:
        raise SyntaxError('it has no page')
    return pages


def _tiff_samples(data: bytes) -> Samples | None:
    tags = _directories(data)[0]
    bits, formats = _numbers(tags, 258, (1,)), _numbers(tags, 339, (1,))
    photometric, channels = (int(_numbers(tags, tag, (1,))[0]) for tag in (262, 277))
    compression = int(_numbers(tags, 259, (1,))[0])
    subsampled = photometric == YCBCR and compression not in JPEG_IN_TIFF       # which only libtiff's own conversion reads
    if set(bits) <= {1, 2, 4, 8} and set(formats) <= {1, 4} and not subsampled or (photometric, bits[0]) == (CMYK, 16):
        return None
    kind, depth = FORMATS.get(int(formats[0])), int(bits[0])
    grey = photometric in (MIN_IS_WHITE, MIN_IS_BLACK) and channels == 1
    apart = channels > 1 and int(_numbers(tags, 284, (1,))[0]) == PLANES_APART               # OpenCV mixes these up
    if not (grey or photometric == RGB and channels in (3, 4) or subsampled) or len({*bits}) > 1 or len({*formats}) > 1 \
            or apart or kind is None or kind == 'float' and depth not in (32, 64):
        raise NotSupported(f'{channels} channels of {"/".join(map(str, sorted({*bits})))}-bit {kind or "complex"} samples, '
                           f'{COLOURS.get(photometric, photometric)}{", one plane after the other" if apart else ""}')
    size = int(_numbers(tags, 257, (0,))[0]), int(_numbers(tags, 256, (0,))[0])
    alpha = ALPHAS.get(int(_numbers(tags, 338, (0,))[0]), '') if channels == 4 else ''
    return Samples(size, kind, depth, channels, photometric == MIN_IS_WHITE, alpha, _declared(tags, kind, depth),
                   whole=_is_whole(tags, len(data)))


def _declared(tags: Tags, kind: str, bits: int) -> tuple[float, float] | None:
    """Return what a TIFF says is black and white: of floats the range, of integers white where it is a whole depth's."""
    low, high = (_numbers(tags, tag, ()) for tag in (340, 341))
    if kind == 'float':
        usable = low and high and np.isfinite([min(low), max(high)]).all() and min(low) < max(high)
        return (float(min(low)), float(max(high))) if usable else None
    most = max((*high, *_numbers(tags, 281, ())), default=0)
    depth = int(most).bit_length()
    return (0, int(most)) if depth > 7 and most == (1 << depth) - 1 and depth < bits else None


def _is_whole(tags: Tags, length: int) -> bool:
    """Return whether the strips or tiles that a page names are inside a file of so many bytes."""
    places, sizes = (_numbers(tags, one, ()) or _numbers(tags, other, ()) for one, other in ((273, 324), (279, 325)))
    return all(at + size <= length for at, size in zip(places, sizes, strict=False))


def _numbers(tags: Tags, tag: int, default: tuple) -> tuple:
    value = tags.get(tag, default)
    return tuple(value) if isinstance(value, (tuple, list)) else (value,)
