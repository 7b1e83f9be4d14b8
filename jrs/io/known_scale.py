"""What tells how long a metre is in a reconstruction: a length, a depth, or where cameras stood; and its words in files."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from jrs.errors import DataError
from jrs.io.names import readable, view_name

if TYPE_CHECKING:                              # commands name `FORMS` before they load torch
    from jrs.io.images import LoadedPhotos
    from jrs.io.known_geometry import KnownCameras

SCALED = 'metric, from '                       # begins the scale of what was brought to metres by something known
SHOWN = 5                                      # names in a message
FORMS = ('length=METRES@VIEW:X,Y@VIEW:X,Y', 'depth=METRES@VIEW:X,Y', 'depth=FOLDER', 'cameras=FILE')
ALLOWED = (f'Allowed are {", ".join(FORMS[:-1])} and {FORMS[-1]}: a distance between what two pixels see, how far in front '
           'of its camera one pixel is, a folder as --depth has it, or a cameras.json in metres. VIEW is the name of a '
           'photo without suffix, X,Y a pixel of it as it was taken.')
NUMBER = r'[-+.\deE]+'
PIXEL = rf'@(.+):({NUMBER}),({NUMBER})'


@dataclass(frozen=True)
class Pixel:
    """A pixel (x, y) of the original photo of the view of this name; the centre of the first one is (0, 0)."""

    view: str
    x: float
    y: float


@dataclass(frozen=True)
class KnownLength:
    """What two `ends` see is `metres` apart."""

    metres: float
    ends: tuple[Pixel, Pixel]

    @property
    def words(self) -> str:
        """What the unit is from."""
        return f'a known length of {self.metres:g} m'


@dataclass(frozen=True)
class KnownDepth:
    """What a pixel sees is `metres` in front of its camera, along its axis."""

    metres: float
    ends: tuple[Pixel]

    @property
    def words(self) -> str:
        """What the unit is from."""
        return f'a known depth of {self.metres:g} m'


@dataclass(frozen=True)
class KnownDepthMaps:
    """A folder of depth images, as `jrs.io.known_geometry.known_geometry` reads it without cameras: in metres."""

    folder: Path
    ends: tuple[Pixel, ...] = ()

    @property
    def words(self) -> str:
        """What the unit is from."""
        return f'the depth in {readable(self.folder.name)}'


@dataclass(frozen=True)
class KnownPositions:
    """Cameras in metres, of at least two of the views, in any world."""

    cameras: KnownCameras
    ends: tuple[Pixel, ...] = ()

    @property
    def words(self) -> str:
        """What the unit is from."""
        return f'the camera positions in {readable(self.cameras.file.name)}'


ScaleSource = KnownLength | KnownDepth | KnownDepthMaps | KnownPositions


def parse_scale_source(text: str) -> ScaleSource:
    """Return what `text` names, in one of `FORMS`.

    Raises:
        DataError: another form, a file or folder that is not there, or cameras that are not in metres.
    """
    kind, _, rest = text.partition('=')
    length, depth = (re.fullmatch(rf'({NUMBER}){PIXEL * count}', rest) for count in (2, 1))
    if kind == 'length' and length:
        metres, *ends = length.groups()
        return KnownLength(_metres(metres, text), (_pixel(ends[:3], text), _pixel(ends[3:], text)))
    if kind == 'depth' and depth:
        metres, *end = depth.groups()
        return KnownDepth(_metres(metres, text), (_pixel(end, text),))
    if kind == 'depth' and Path(rest).is_dir() and rest:
        return KnownDepthMaps(Path(rest))
    if kind == 'cameras' and rest:
        from jrs.io.known_geometry import read_cameras
        cameras = read_cameras(rest)
        if cameras.scale == 'arbitrary':
            raise DataError(f'{rest} is of arbitrary scale, so it does not say how long a metre is. Where its translations '
                            'are in metres, set its "scale" to "metric".')
        return KnownPositions(cameras)
    reason = f'there is no folder {rest}. ' if kind == 'depth' and rest and '@' not in rest else ''
    raise DataError(f'--scale-from {text!r} says nothing: {reason}{ALLOWED}')


def check_scale_source(source: ScaleSource, photos: LoadedPhotos) -> None:
    """Raise a DataError where `source` speaks of views or pixels that `photos` do not have, before anything is computed."""
    for pixel in source.ends:
        if pixel.view not in photos.names:
            held = f'{", ".join(photos.names[:SHOWN])}{", …" if len(photos.names) > SHOWN else ""}'
            raise DataError(f'--scale-from: there is no view {pixel.view!r}. There are: {held}.')
        view = photos.names.index(pixel.view)
        height, width = photos.original_sizes[view]
        if not (-0.5 <= pixel.x < width - 0.5 and -0.5 <= pixel.y < height - 0.5):
            raise DataError(f'--scale-from: {pixel.view} has {width} x {height} pixels, so none at '
                            f'{pixel.x:g},{pixel.y:g}. Pixels are those of the photo as it was taken.')
        row, column = input_pixel(pixel, photos)[1]
        rows, columns = photos.valid.shape[1:]
        if not (0 <= row < rows and 0 <= column < columns and photos.valid[view, row, column]):
            raise DataError(f'--scale-from: pixel {pixel.x:g},{pixel.y:g} of {pixel.view} was cut off: the views of one run '
                            'have one aspect. Choose one nearer to the middle.')
    if isinstance(source, KnownLength) and source.ends[0] == source.ends[1]:
        raise DataError('--scale-from: both ends of the length are the same pixel. Name two.')
    if isinstance(source, KnownPositions) and len(set(source.cameras.cameras) & set(photos.names)) < 2:
        raise DataError(f'--scale-from: {source.cameras.file} must have the cameras of at least two of the views, by name. '
                        f'Views: {", ".join(photos.names[:SHOWN])}; cameras: '
                        f'{", ".join(list(source.cameras.cameras)[:SHOWN])}.')


def input_pixel(pixel: Pixel, photos: LoadedPhotos) -> tuple[tuple[float, float], tuple[int, int]]:
    """Return where `pixel` is in the network input, (u, v), and the row and column of the nearest input pixel."""
    matrix = photos.input_from_original[photos.names.index(pixel.view)]
    u, v = (float(matrix[row] @ matrix.new_tensor([pixel.x, pixel.y, 1.0])) for row in (0, 1))
    return (u, v), (math.floor(v + 0.5), math.floor(u + 0.5))


def metric_from(source: ScaleSource) -> str:
    """Return the scale of a reconstruction that `source` brought to metres, such as 'metric, from a known length of 2 m'."""
    approximate = isinstance(source, KnownPositions) and source.cameras.scale == 'metric, approximate'
    return f'{SCALED}{source.words}{" (approximate)" if approximate else ""}'


def _metres(text: str, whole: str) -> float:
    value = _number(text, whole)
    if value <= 0:
        raise DataError(f'--scale-from {whole!r}: a length or depth must be above 0 metres, got {text}.')
    return value


def _pixel(parts: list[str], whole: str) -> Pixel:
    return Pixel(view_name(parts[0]), _number(parts[1], whole), _number(parts[2], whole))


def _number(text: str, whole: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise DataError(f'--scale-from {whole!r}: {text!r} is no finite number. {ALLOWED}')
    return value
