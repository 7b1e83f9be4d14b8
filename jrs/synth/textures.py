"""Solid textures: colour as a function of a point inside an object, so that no surface needs coordinates of its own.

A point (N, 3) is in metres; its first axis runs along the longest side of the primitive, its last along the shortest.
"""

from __future__ import annotations

import colorsys
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.ndimage import map_coordinates

Colour = tuple[float, float, float]
_LATTICE = np.random.default_rng(20240501).random((32, 32, 32), dtype=np.float32)


@dataclass(frozen=True)
class Material:
    """What a primitive is made of: a texture's name, two linear RGB colours in [0, 1], repetitions per metre."""

    texture: str
    colour: Colour
    second: Colour
    scale: float = 1.0


def noise(points: np.ndarray, scale: float | np.ndarray = 1.0) -> np.ndarray:
    """Return smooth noise in [0, 1] with period 32 / scale: points (N, 3) -> (N,)."""
    cells = (points * scale).T                                                          # (3, N)
    return map_coordinates(_LATTICE, cells, order=1, mode='grid-wrap', prefilter=False)


def _flat(points: np.ndarray, scale: np.ndarray) -> np.ndarray:
    return np.zeros(len(points))


def _checker(points: np.ndarray, scale: np.ndarray) -> np.ndarray:
    return np.floor(points * scale[:, None]).sum(axis=1) % 2


def _stripes(points: np.ndarray, scale: np.ndarray) -> np.ndarray:
    return np.clip(0.5 + 2.0 * np.sin(2 * np.pi * points[:, 0] * scale), 0.0, 1.0)


def _wood(points: np.ndarray, scale: np.ndarray) -> np.ndarray:
    grain = noise(points * [1.5, 12.0, 12.0] * scale[:, None])
    rings = np.hypot(points[:, 1], points[:, 2]) * 14.0 * scale + 2.5 * noise(points * [1.0, 3.0, 3.0])
    return 0.55 * grain + 0.45 * (0.5 + 0.5 * np.sin(2 * np.pi * rings))


def _noise(points: np.ndarray, scale: np.ndarray) -> np.ndarray:
    scaled = points * scale[:, None]
    return 0.6 * noise(scaled) + 0.4 * noise(scaled * 2.7)


def _tile(points: np.ndarray, scale: np.ndarray) -> np.ndarray:
    cell = points[:, :2] * scale[:, None]
    return (np.mod(cell, 1.0).min(axis=1) < 0.045).astype(float)


def _plank(points: np.ndarray, scale: np.ndarray) -> np.ndarray:
    across = points[:, 1] * scale
    row = np.floor(across)
    board = np.floor(points[:, 0] * 0.8 + 0.37 * row)
    tone = np.mod(np.sin(row * 12.9898 + board * 78.233) * 43758.5453, 1.0)
    seam = np.mod(across, 1.0) < 0.05
    return np.where(seam, 1.0, 0.45 * tone + 0.35 * noise(points * [2.0, 25.0, 25.0]))


def _art(points: np.ndarray, scale: np.ndarray) -> np.ndarray:
    return np.round(4.0 * _noise(points * [1.0, 1.0, 0.0], scale)) / 4.0


TEXTURES: dict[str, Callable[[np.ndarray, np.ndarray], np.ndarray]] = {
    'flat': _flat, 'checker': _checker, 'stripes': _stripes, 'wood': _wood, 'noise': _noise, 'tile': _tile,
    'plank': _plank, 'art': _art, 'emissive': _flat}


class MaterialTable:
    """The materials of a room as arrays, one row per primitive."""

    def __init__(self, materials: Sequence[Material]) -> None:
        names = list(TEXTURES)
        self.texture = np.array([names.index(material.texture) for material in materials])
        self.colour = np.array([material.colour for material in materials])                  # (P, 3)
        self.second = np.array([material.second for material in materials])                  # (P, 3)
        self.scale = np.array([material.scale for material in materials])
        self.emissive = self.texture == names.index('emissive')

    def albedo(self, index: np.ndarray, points: np.ndarray) -> np.ndarray:
        """Return linear RGB (N, 3) at points (N, 3) of the primitives `index` (N,)."""
        blend, texture = np.zeros(len(index)), self.texture[index]
        for number, function in enumerate(TEXTURES.values()):
            if function is not _flat:
                chosen = np.flatnonzero(texture == number)
                if chosen.size:
                    blend[chosen] = function(points[chosen], self.scale[index[chosen]])
        first = self.colour[index]
        return first + blend[:, None] * (self.second[index] - first)


def pick(random: np.random.Generator, options: Sequence):
    """Return one of `options`."""
    return options[int(random.integers(len(options)))]


def hsv(random: np.random.Generator, saturation: tuple[float, float], value: tuple[float, float]) -> Colour:
    """Return a colour of any hue with saturation and value in the given ranges."""
    return colorsys.hsv_to_rgb(random.random(), random.uniform(*saturation), random.uniform(*value))


def shade_of(colour: Colour, factor: float) -> Colour:
    """Return `colour` times `factor`, at most 1 per channel."""
    return tuple(min(1.0, channel * factor) for channel in colour)


_WOODS = ((0.55, 0.36, 0.19), (0.38, 0.22, 0.11), (0.68, 0.50, 0.30), (0.24, 0.13, 0.07), (0.45, 0.25, 0.13))


def wood(random: np.random.Generator) -> Material:
    """Return wood, or white lacquer one time in four."""
    if random.random() < 0.25:
        return paint(random)
    colour = shade_of(pick(random, _WOODS), random.uniform(0.8, 1.2))
    return Material('wood', colour, shade_of(colour, 0.7), random.uniform(0.7, 1.3))


def paint(random: np.random.Generator) -> Material:
    """Return white or pale lacquer."""
    return _plain(hsv(random, (0.0, 0.12), (0.7, 0.92)))


def plastic(random: np.random.Generator) -> Material:
    """Return plain plastic: any colour, black or white."""
    return _plain(pick(random, (hsv(random, (0.3, 0.8), (0.25, 0.75)), (0.06, 0.06, 0.07), (0.8, 0.8, 0.8))))


def fabric(random: np.random.Generator) -> Material:
    """Return cloth: plain with a fine noise, checked or striped."""
    colour = hsv(random, (0.05, 0.6), (0.2, 0.75))
    kind = pick(random, ('noise', 'noise', 'noise', 'checker', 'stripes'))
    second = shade_of(colour, 0.75) if kind == 'noise' else hsv(random, (0.05, 0.5), (0.3, 0.8))
    return Material(kind, colour, second, {'noise': 30.0}.get(kind, random.uniform(5.0, 11.0)))


def metal(random: np.random.Generator) -> Material:
    """Return grey or black metal."""
    level = pick(random, (0.08, 0.3, 0.5, 0.65))
    return _plain((level, level, level * 1.03))


def ceramic(random: np.random.Generator) -> Material:
    """Return white glaze."""
    return _plain((0.85, 0.85, random.uniform(0.78, 0.86)))


def stone(random: np.random.Generator) -> Material:
    """Return a speckled slab."""
    colour = hsv(random, (0.0, 0.2), (0.2, 0.8))
    return Material('noise', colour, shade_of(colour, 0.55), 22.0)


def _plain(colour: Colour) -> Material:
    return Material('flat', colour, colour)


def plain(*colour: float) -> Material:
    """Return one flat colour."""
    return _plain(tuple(colour))


def emissive(*colour: float) -> Material:
    """Return a surface that shines by itself."""
    return Material('emissive', tuple(colour), tuple(colour))


def art(random: np.random.Generator) -> Material:
    """Return muted posterised blots, for pictures."""
    return Material('art', hsv(random, (0.2, 0.6), (0.2, 0.5)), hsv(random, (0.2, 0.6), (0.5, 0.9)),
                    random.uniform(3.0, 9.0))


def wall_paper(random: np.random.Generator) -> Material:
    """Return what walls are covered with: mostly pale paint, sometimes stripes."""
    colour = hsv(random, (0.0, 0.22), (0.62, 0.88))
    if random.random() < 0.15:
        return Material('stripes', colour, shade_of(colour, 0.88), random.uniform(2.0, 4.0))
    return Material('noise', colour, shade_of(colour, 0.95), 6.0)


def flooring(random: np.random.Generator) -> Material:
    """Return planks, tiles, carpet or stone."""
    kind = pick(random, ('plank', 'plank', 'tile', 'noise'))
    if kind == 'plank':
        colour = shade_of(pick(random, _WOODS), random.uniform(0.9, 1.3))
        return Material('plank', colour, shade_of(colour, 0.45), random.uniform(6.0, 10.0))
    colour = hsv(random, (0.03, 0.3), (0.35, 0.75))
    if kind == 'tile':
        return Material('tile', colour, shade_of(colour, 0.5), random.uniform(2.0, 4.0))
    return Material('noise', colour, shade_of(colour, 0.7), random.uniform(12.0, 25.0))
