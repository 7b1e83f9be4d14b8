"""Furniture: one short function per type, from a random generator to a piece made of boxes, frusta and balls.

A piece stands on z = 0 (wall-mounted ones too: the layout lifts them) with its front to -y and its back to +y. The
same state of the generator gives the same piece: that is how a room gets identical twins. Labels are ScanNet's raw
categories.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from jrs.synth import textures as tx
from jrs.synth.primitives import BOX, ELLIPSOID, FRUSTUM, Part
from jrs.synth.textures import Material

Random = np.random.Generator
Triple = tuple[float, float, float]
FURNITURE: dict[str, Callable[[Random], Piece]] = {}


class Piece:
    """A labelled list of parts in its own frame, metres."""

    def __init__(self, label: str) -> None:
        self.label = label
        self.parts: list[Part] = []
        self.top = 0.0                                      # height of the surface that things can stand on

    def box(self, size: Triple, at: Triple, material: Material, tilt: float = 0.0, turn: float = 0.0) -> None:
        """Add a box of `size`; `at` is the centre of its bottom; tilt about x, turn about z, degrees."""
        self._add(BOX, size, at, material, 1.0, tilt, turn)

    def cylinder(self, radius: float, height: float, at: Triple, material: Material, taper: float = 1.0,
                 tilt: float = 0.0, turn: float = 0.0) -> None:
        """Add a cylinder, or a frustum whose top has `taper` times the radius."""
        self._add(FRUSTUM, (2 * radius, 2 * radius, height), at, material, taper, tilt, turn)

    def ball(self, size: Triple, at: Triple, material: Material, tilt: float = 0.0, turn: float = 0.0) -> None:
        """Add an ellipsoid of diameters `size`; `at` is its lowest point before tilting."""
        self._add(ELLIPSOID, size, at, material, 1.0, tilt, turn)

    def _add(self, kind: int, size: Triple, at: Triple, material: Material, taper: float, tilt: float,
             turn: float) -> None:
        matrix = about_z(turn) @ about_x(tilt) @ np.diag(np.asarray(size) / 2)
        self.parts.append(Part(kind, matrix, np.add(at, (0, 0, size[2] / 2)), material, taper))

    def bounds(self) -> tuple[np.ndarray, np.ndarray]:
        """Return the lowest and highest corner, (3,) each."""
        corners = np.concatenate([part.corners for part in self.parts])                # (8 * parts, 3)
        return corners.min(axis=0), corners.max(axis=0)


def about_z(degrees: float) -> np.ndarray:
    """Return the rotation (3, 3) about z."""
    cosine, sine = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    return np.array([[cosine, -sine, 0.0], [sine, cosine, 0.0], [0.0, 0.0, 1.0]])


def about_x(degrees: float) -> np.ndarray:
    """Return the rotation (3, 3) about x."""
    cosine, sine = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    return np.array([[1.0, 0.0, 0.0], [0.0, cosine, -sine], [0.0, sine, cosine]])


def furniture(function: Callable[[Random], Piece]) -> Callable[[Random], Piece]:
    """Enter a function into FURNITURE under its name."""
    FURNITURE[function.__name__] = function
    return function


def _legs(piece: Piece, random: Random, size: Triple, material: Material, inset: float = 0.04) -> None:
    """Add four legs, square or round, under a top of `size` (its height is theirs)."""
    width, depth, height = size
    thick, round_leg = random.uniform(0.018, 0.035), random.random() < 0.5
    for x in (-width / 2 + inset, width / 2 - inset):
        for y in (-depth / 2 + inset, depth / 2 - inset):
            if round_leg:
                piece.cylinder(thick * 0.8, height, (x, y, 0), material, taper=1.25)
            else:
                piece.box((2 * thick, 2 * thick, height), (x, y, 0), material)


def _fronts(piece: Piece, random: Random, size: Triple, low: float, columns: int, rows: int) -> None:
    """Add doors or drawers with handles to the front of a carcass of `size` that begins at height `low`."""
    width, depth, height = size
    material, handle = tx.wood(random), tx.metal(random)
    cell_w, cell_h = width / columns, height / rows
    for column in range(columns):
        for row in range(rows):
            x, z = -width / 2 + (column + 0.5) * cell_w, low + row * cell_h
            piece.box((cell_w - 0.02, 0.02, cell_h - 0.02), (x, -depth / 2 - 0.01, z + 0.01), material)
            piece.box((min(0.12, cell_w / 3), 0.02, 0.02), (x, -depth / 2 - 0.03, z + cell_h * 0.7), handle)


@furniture
def chair(random: Random) -> Piece:
    """A dining chair: four legs, a seat, a solid, slatted or framed back."""
    piece, frame = Piece('chair'), tx.wood(random) if random.random() < 0.7 else tx.plastic(random)
    cover = tx.fabric(random) if random.random() < 0.5 else frame
    width, depth, seat = random.uniform(0.4, 0.48), random.uniform(0.4, 0.48), random.uniform(0.43, 0.48)
    back, style = random.uniform(0.38, 0.52), random.integers(3)
    _legs(piece, random, (width, depth, seat), frame, inset=0.03)
    piece.box((width, depth, 0.05), (0, 0, seat - 0.03), cover)
    y = depth / 2 - 0.02
    if style == 0:
        piece.box((width, 0.03, back), (0, y, seat + 0.02), cover, tilt=-6)
    else:
        for x in (-width / 2 + 0.02, width / 2 - 0.02):
            piece.box((0.04, 0.04, back), (x, y, seat), frame)
    if style == 1:
        for x in np.linspace(-width / 2 + 0.1, width / 2 - 0.1, 3):
            piece.box((0.04, 0.02, back - 0.04), (x, y, seat), frame)
    if style > 0:
        piece.box((width, 0.035, 0.09 if style == 1 else back * 0.6), (0, y, seat + back * (0.8 if style == 1 else 0.4)),
                  frame if style == 1 else cover)
    return piece


@furniture
def office_chair(random: Random) -> Piece:
    """A swivel chair: five feet with castors, a gas lift, seat, back, often arm rests."""
    piece, base, cover = Piece('office chair'), tx.metal(random), tx.fabric(random)
    width, seat, back = random.uniform(0.46, 0.54), random.uniform(0.44, 0.52), random.uniform(0.45, 0.65)
    for turn in range(0, 360, 72):
        foot = about_z(turn) @ [0.0, 0.15, 0.05]
        piece.box((0.04, 0.3, 0.03), tuple(foot), base, turn=turn)
        piece.ball((0.055, 0.055, 0.055), tuple(about_z(turn) @ [0.0, 0.29, 0.0]), base)
    piece.cylinder(0.03, seat - 0.08, (0, 0, 0.06), base)
    piece.box((width, width, 0.08), (0, 0, seat - 0.02), cover)
    piece.box((0.06, 0.03, 0.25), (0, width / 2, seat), base)
    piece.box((width * 0.92, 0.06, back), (0, width / 2, seat + 0.12), cover, tilt=-5)
    if random.random() < 0.6:
        for x in (-width / 2, width / 2):
            piece.box((0.03, 0.04, 0.2), (x, 0.02, seat), base)
            piece.box((0.06, 0.26, 0.03), (x, 0, seat + 0.2), base)
    return piece


@furniture
def stool(random: Random) -> Piece:
    """A round seat on three or four slanted legs."""
    piece, frame, height = Piece('stool'), tx.wood(random), random.uniform(0.42, 0.7)
    radius, cover = random.uniform(0.15, 0.2), tx.plastic(random)
    piece.cylinder(radius, 0.05, (0, 0, height - 0.05), cover)
    count = 3 + int(random.integers(2))
    for turn in np.arange(count) * 360 / count + 45:
        foot = about_z(turn) @ [0.0, radius * 0.75, 0.0]
        piece.cylinder(0.016, height - 0.04, tuple(foot), frame, tilt=7, turn=turn)
    piece.cylinder(radius * 0.75, 0.02, (0, 0, height * 0.35), frame)
    return piece


def _seat_furniture(random: Random, label: str, cushions: int) -> Piece:
    """An upholstered seat: base, back, arms, `cushions` seat and back cushions."""
    piece, cover = Piece(label), tx.fabric(random)
    cushion = cover if random.random() < 0.6 else tx.fabric(random)
    each, depth, seat = random.uniform(0.56, 0.68), random.uniform(0.78, 0.92), random.uniform(0.38, 0.44)
    arm, back, arm_top = random.uniform(0.1, 0.2), random.uniform(0.75, 0.88), random.uniform(0.52, 0.64)
    inner = each * cushions
    width = inner + 2 * arm
    piece.box((width, depth - 0.02, seat - 0.22), (0, 0, 0.08), cover)
    piece.box((width, 0.2, back - 0.08), (0, depth / 2 - 0.1, 0.08), cover, tilt=-3)
    for x in (-1, 1):
        piece.box((arm, depth, arm_top - 0.08), (x * (width - arm) / 2, 0, 0.08), cover)
        for y in (-depth / 2 + 0.06, depth / 2 - 0.06):
            piece.box((0.05, 0.05, 0.08), (x * (width / 2 - 0.05), y, 0), tx.plain(0.1, 0.07, 0.05))
    for index in range(cushions):
        x = -inner / 2 + (index + 0.5) * each
        piece.box((each - 0.02, depth - 0.24, 0.15), (x, -0.1, seat - 0.14), cushion)
        piece.box((each - 0.03, 0.14, back - seat - 0.04), (x, depth / 2 - 0.26, seat + 0.01), cushion, tilt=-10)
    piece.top = seat
    return piece


@furniture
def armchair(random: Random) -> Piece:
    """An upholstered chair for one."""
    return _seat_furniture(random, 'armchair', 1)


@furniture
def couch(random: Random) -> Piece:
    """A sofa for two or three."""
    return _seat_furniture(random, 'couch', int(random.integers(2, 4)))


@furniture
def ottoman(random: Random) -> Piece:
    """A low upholstered block."""
    piece, side = Piece('ottoman'), random.uniform(0.4, 0.6)
    piece.box((side, side * random.uniform(0.8, 1.0), 0.32), (0, 0, 0.06), tx.fabric(random))
    _legs(piece, random, (side, side * 0.8, 0.07), tx.wood(random))
    return piece


@furniture
def bench(random: Random) -> Piece:
    """A long seat without a back."""
    piece, material, width = Piece('bench'), tx.wood(random), random.uniform(0.9, 1.3)
    piece.box((width, 0.36, 0.05), (0, 0, 0.41), material)
    _legs(piece, random, (width, 0.36, 0.41), material)
    return piece


def _table(random: Random, label: str, size: Triple) -> Piece:
    """A top on four legs, or for round tops on a foot."""
    piece, top = Piece(label), tx.wood(random)
    legs = top if random.random() < 0.6 else tx.metal(random)
    width, depth, height = size
    thick = random.uniform(0.025, 0.05)
    piece.box((width, depth, thick), (0, 0, height - thick), top)
    _legs(piece, random, (width, depth, height - thick), legs, inset=0.06)
    if random.random() < 0.5:
        for y in (-depth / 2 + 0.07, depth / 2 - 0.07):
            piece.box((width - 0.14, 0.02, 0.07), (0, y, height - thick - 0.07), legs)
    piece.top = height
    return piece


@furniture
def table(random: Random) -> Piece:
    """A dining or meeting table, round one time in four."""
    height = random.uniform(0.71, 0.77)
    if random.random() < 0.75:
        return _table(random, 'table', (random.uniform(1.1, 1.8), random.uniform(0.75, 0.95), height))
    piece, material, radius = Piece('table'), tx.wood(random), random.uniform(0.45, 0.6)
    piece.cylinder(radius, 0.04, (0, 0, height - 0.04), material)
    piece.cylinder(0.05, height - 0.05, (0, 0, 0.02), material)
    piece.cylinder(radius * 0.55, 0.03, (0, 0, 0), material, taper=0.9)
    piece.top = height
    return piece


@furniture
def coffee_table(random: Random) -> Piece:
    """A low table, sometimes with a shelf."""
    width, depth, height = random.uniform(0.8, 1.2), random.uniform(0.5, 0.65), random.uniform(0.36, 0.46)
    piece = _table(random, 'coffee table', (width, depth, height))
    if random.random() < 0.5:
        piece.box((width - 0.1, depth - 0.1, 0.02), (0, 0, 0.14), tx.wood(random))
    return piece


@furniture
def desk(random: Random) -> Piece:
    """A desk on legs with a drawer block, or between side panels."""
    piece, material = Piece('desk'), tx.wood(random)
    width, depth, height = random.uniform(1.1, 1.6), random.uniform(0.6, 0.75), random.uniform(0.71, 0.76)
    piece.box((width, depth, 0.03), (0, 0, height - 0.03), material)
    if random.random() < 0.5:
        _legs(piece, random, (width, depth, height - 0.03), tx.metal(random))
    else:
        for x in (-1, 1):
            piece.box((0.03, depth - 0.06, height - 0.03), (x * (width / 2 - 0.03), 0, 0), material)
        piece.box((width - 0.08, 0.02, 0.35), (0, depth / 2 - 0.06, height - 0.4), material)
    if random.random() < 0.6:
        block = Piece('desk')
        block.box((0.38, depth - 0.1, 0.55), (0, 0, 0), material)
        _fronts(block, random, (0.38, depth - 0.1, 0.55), 0.0, 1, 3)
        offset = np.array([width / 2 - 0.27, 0.0, height - 0.6])
        piece.parts += [part.moved(np.eye(3), offset) for part in block.parts]
    piece.top = height
    return piece


@furniture
def bed(random: Random) -> Piece:
    """A frame with head board, mattress and a blanket."""
    piece, frame = Piece('bed'), tx.wood(random) if random.random() < 0.6 else tx.fabric(random)
    width, length, height = random.uniform(0.95, 1.8), random.uniform(1.95, 2.1), random.uniform(0.28, 0.36)
    piece.box((width + 0.06, length, height - 0.08), (0, 0, 0.08), frame)
    piece.box((width + 0.1, 0.06, random.uniform(0.8, 1.15)), (0, length / 2, 0), frame)
    piece.box((width, length - 0.05, 0.2), (0, -0.01, height), tx.plain(0.85, 0.84, 0.8))
    blanket = random.uniform(0.55, 0.75) * length
    piece.box((width + 0.04, blanket, 0.2), (0, -length / 2 + blanket / 2 - 0.01, height + 0.03), tx.fabric(random))
    for x in (-width / 2, width / 2):
        piece.box((0.06, 0.06, 0.09), (x, -length / 2 + 0.05, 0), frame)
    piece.top = height + 0.2
    return piece


@furniture
def pillow(random: Random) -> Piece:
    """A soft cushion, lying."""
    piece, cover = Piece('pillow'), tx.fabric(random) if random.random() < 0.6 else tx.plain(0.86, 0.86, 0.84)
    width, depth = random.uniform(0.42, 0.65), random.uniform(0.36, 0.44)
    piece.ball((width, depth, 0.17), (0, 0, 0), cover)
    piece.box((width * 0.7, depth * 0.7, 0.07), (0, 0, 0.05), cover)
    return piece


def _chest(random: Random, label: str, size: Triple, columns: int, rows: int) -> Piece:
    """A carcass on a plinth with doors or drawers."""
    piece, material = Piece(label), tx.wood(random)
    width, depth, height = size
    piece.box((width - 0.04, depth - 0.06, 0.06), (0, 0, 0), tx.plain(0.12, 0.1, 0.09))
    piece.box((width, depth, height - 0.06), (0, 0, 0.06), material)
    _fronts(piece, random, (width, depth, height - 0.08), 0.06, columns, rows)
    piece.top = height
    return piece


@furniture
def nightstand(random: Random) -> Piece:
    """A small chest beside a bed."""
    size = random.uniform(0.38, 0.5), random.uniform(0.34, 0.42), random.uniform(0.45, 0.6)
    return _chest(random, 'nightstand', size, 1, int(random.integers(1, 4)))


@furniture
def dresser(random: Random) -> Piece:
    """A chest of drawers."""
    size = random.uniform(0.8, 1.3), random.uniform(0.42, 0.52), random.uniform(0.8, 1.1)
    return _chest(random, 'dresser', size, int(random.integers(1, 3)), int(random.integers(3, 6)))


@furniture
def low_cabinet(random: Random) -> Piece:
    """A sideboard, also under a television."""
    size = random.uniform(0.9, 1.6), random.uniform(0.38, 0.46), random.uniform(0.42, 0.85)
    return _chest(random, 'cabinet', size, int(random.integers(2, 4)), int(random.integers(1, 3)))


@furniture
def tall_cabinet(random: Random) -> Piece:
    """A wardrobe or locker."""
    size = random.uniform(0.7, 1.3), random.uniform(0.45, 0.6), random.uniform(1.6, 2.1)
    return _chest(random, 'cabinet', size, int(random.integers(1, 4)), int(random.integers(1, 3)))


@furniture
def wall_cabinet(random: Random) -> Piece:
    """A kitchen cupboard that hangs on a wall."""
    size = random.uniform(0.7, 1.6), random.uniform(0.3, 0.36), random.uniform(0.5, 0.7)
    return _chest(random, 'cabinet', size, int(random.integers(2, 4)), 1)


@furniture
def counter(random: Random) -> Piece:
    """A kitchen counter with a stone top over cupboards."""
    width, depth, height = random.uniform(1.4, 2.4), 0.6, random.uniform(0.86, 0.92)
    piece = _chest(random, 'counter', (width, depth, height - 0.04), int(random.integers(3, 5)), 1)
    piece.box((width + 0.02, depth + 0.03, 0.04), (0, 0, height - 0.04), tx.stone(random))
    piece.top = height
    return piece


@furniture
def counter_sink(random: Random) -> Piece:
    """A basin let into a counter, with its tap; stands on the counter's top."""
    piece, steel = Piece('sink'), tx.metal(random)
    width, depth = random.uniform(0.45, 0.6), random.uniform(0.36, 0.42)
    piece.box((width - 0.06, depth - 0.06, 0.012), (0, 0, 0), tx.plain(0.25, 0.25, 0.26))
    for x in (-1, 1):
        piece.box((0.035, depth, 0.03), (x * (width / 2 - 0.018), 0, 0), steel)
        piece.box((width, 0.035, 0.03), (0, x * (depth / 2 - 0.018), 0), steel)
    piece.cylinder(0.016, 0.26, (0, depth / 2 - 0.02, 0), steel)
    piece.box((0.025, 0.18, 0.025), (0, depth / 2 - 0.1, 0.24), steel)
    return piece


@furniture
def pedestal_sink(random: Random) -> Piece:
    """A wash basin on a foot."""
    piece, glaze, height = Piece('sink'), tx.ceramic(random), random.uniform(0.8, 0.88)
    width, depth = random.uniform(0.5, 0.65), random.uniform(0.42, 0.5)
    piece.cylinder(0.09, height - 0.1, (0, 0.08, 0), glaze)
    piece.box((width, depth, 0.1), (0, 0, height - 0.12), glaze)
    piece.ball((width * 0.75, depth * 0.65, 0.06), (0, -0.03, height - 0.045), tx.plain(0.55, 0.57, 0.6))
    for x in (-1, 1):
        piece.box((0.04, depth, 0.03), (x * (width / 2 - 0.02), 0, height - 0.02), glaze)
    piece.cylinder(0.02, 0.14, (0, depth / 2 - 0.04, height - 0.02), tx.metal(random))
    piece.box((0.03, 0.14, 0.03), (0, depth / 2 - 0.1, height + 0.1), tx.plain(0.6, 0.6, 0.62))
    return piece


@furniture
def bookshelf(random: Random) -> Piece:
    """Shelves between two sides, filled with books."""
    piece, material = Piece('bookshelf'), tx.wood(random)
    width, depth, height = random.uniform(0.7, 1.1), random.uniform(0.26, 0.34), random.uniform(1.2, 2.0)
    levels = int(random.integers(3, 6))
    step = (height - 0.08) / levels
    for x in (-1, 1):
        piece.box((0.025, depth, height), (x * (width / 2 - 0.0125), 0, 0), material)
    piece.box((width, 0.015, height), (0, depth / 2 - 0.008, 0), material)
    for level in range(levels + 1):
        piece.box((width - 0.05, depth - 0.01, 0.025), (0, 0, 0.04 + level * step), material)
    for level in range(levels):
        _books(piece, random, width - 0.07, depth, 0.065 + level * step, step - 0.06)
    piece.top = height
    return piece


def _books(piece: Piece, random: Random, width: float, depth: float, z: float, height: float) -> None:
    """Fill part of one shelf with up to four blocks of books."""
    x = -width / 2
    for _ in range(int(random.integers(1, 5))):
        block = random.uniform(0.08, 0.26)
        if x + block > width / 2:
            return
        tall, deep = height * random.uniform(0.6, 0.95), depth * random.uniform(0.6, 0.85)
        spines = tx.Material('stripes', tx.hsv(random, (0.3, 0.8), (0.2, 0.7)), tx.hsv(random, (0.2, 0.7), (0.2, 0.8)),
                             random.uniform(8.0, 14.0))
        piece.box((block, deep, tall), (x + block / 2, 0.01, z), spines)
        x += block + random.uniform(0.0, 0.15)


@furniture
def refrigerator(random: Random) -> Piece:
    """A fridge with one or two doors."""
    piece, height = Piece('refrigerator'), random.uniform(1.5, 1.9)
    width, depth = random.uniform(0.58, 0.75), random.uniform(0.6, 0.68)
    cover = tx.paint(random) if random.random() < 0.6 else tx.metal(random)
    piece.box((width, depth, height), (0, 0, 0.02), cover)
    split = height * random.uniform(0.3, 0.7)
    for low, high in ((0.05, split), (split + 0.015, height + 0.01)):
        piece.box((width - 0.01, 0.05, high - low), (0, -depth / 2 - 0.03, low), cover)
        piece.box((0.025, 0.04, 0.35), (width / 2 - 0.06, -depth / 2 - 0.07, (low + high) / 2 - 0.17),
                  tx.plain(0.3, 0.3, 0.32))
    piece.top = height
    return piece


def _screen(random: Random, label: str, width: float, stand: float) -> Piece:
    """A flat screen on a foot, dark or showing a picture."""
    piece, black, height = Piece(label), tx.plain(0.04, 0.04, 0.045), width * 0.57
    piece.box((width, 0.035, height), (0, 0, stand), black)
    shown = tx.plain(0.02, 0.02, 0.03) if random.random() < 0.5 else tx.emissive(*tx.hsv(random, (0.3, 0.8), (0.3, 0.7)))
    piece.box((width - 0.03, 0.01, height - 0.03), (0, -0.018, stand + 0.015), shown)
    if stand > 0:
        piece.box((0.06, 0.04, stand + 0.05), (0, 0.02, 0), black)
        piece.box((width * 0.4, 0.18, 0.015), (0, 0.02, 0), black)
    return piece


@furniture
def tv(random: Random) -> Piece:
    """A television on a foot."""
    return _screen(random, 'tv', random.uniform(0.8, 1.2), random.uniform(0.05, 0.1))


@furniture
def monitor(random: Random) -> Piece:
    """A computer screen."""
    return _screen(random, 'monitor', random.uniform(0.46, 0.62), random.uniform(0.1, 0.15))


@furniture
def laptop(random: Random) -> Piece:
    """An open laptop."""
    piece, body, width = Piece('laptop'), tx.metal(random), random.uniform(0.3, 0.37)
    piece.box((width, 0.23, 0.02), (0, 0, 0), body)
    piece.box((width, 0.012, 0.22), (0, 0.14, 0.015), body, tilt=-15)
    piece.box((width - 0.03, 0.006, 0.19), (0, 0.132, 0.03), tx.emissive(0.25, 0.35, 0.5), tilt=-15)
    return piece


@furniture
def keyboard(random: Random) -> Piece:
    """A keyboard."""
    piece, body, width = Piece('keyboard'), tx.plastic(random), random.uniform(0.38, 0.46)
    piece.box((width, 0.14, 0.018), (0, 0, 0), body)
    piece.box((width - 0.02, 0.12, 0.012), (0, 0, 0.012), tx.Material('tile', (0.12, 0.12, 0.12), (0.4, 0.4, 0.4), 45.0))
    return piece


@furniture
def floor_lamp(random: Random) -> Piece:
    """A lamp on a pole."""
    piece, pole, height = Piece('lamp'), tx.metal(random), random.uniform(1.35, 1.65)
    piece.cylinder(0.14, 0.03, (0, 0, 0), pole)
    piece.cylinder(0.014, height - 0.25, (0, 0, 0.02), pole)
    piece.cylinder(random.uniform(0.17, 0.22), 0.28, (0, 0, height - 0.28), tx.emissive(0.95, 0.85, 0.6),
                   taper=random.uniform(0.5, 0.9))
    return piece


@furniture
def table_lamp(random: Random) -> Piece:
    """A lamp for a table."""
    piece, foot, height = Piece('lamp'), tx.plastic(random), random.uniform(0.38, 0.52)
    if random.random() < 0.5:
        piece.ball((0.16, 0.16, height * 0.55), (0, 0, 0), foot)
    else:
        piece.cylinder(0.08, 0.02, (0, 0, 0), foot)
        piece.cylinder(0.012, height * 0.6, (0, 0, 0), foot)
    shade = tx.emissive(*((0.9, 0.82, 0.65) if random.random() < 0.5 else (0.75, 0.72, 0.68)))
    piece.cylinder(random.uniform(0.12, 0.16), height * 0.45, (0, 0, height * 0.55), shade, taper=0.65)
    return piece


@furniture
def trash_can(random: Random) -> Piece:
    """A bin that widens to the top, with a dark mouth."""
    piece, height = Piece('trash can'), random.uniform(0.28, 0.6)
    radius, cover = random.uniform(0.12, 0.17), tx.plastic(random)
    piece.cylinder(radius, height, (0, 0, 0), cover, taper=1.2)
    piece.cylinder(radius * 1.12, 0.012, (0, 0, height - 0.008), tx.plain(0.04, 0.04, 0.04))
    return piece


@furniture
def box(random: Random) -> Piece:
    """A cardboard box with a strip of tape, or a painted one."""
    piece = Piece('box')
    colour = (0.55, 0.4, 0.24) if random.random() < 0.6 else tx.hsv(random, (0.2, 0.7), (0.3, 0.8))
    width, depth, height = random.uniform(0.25, 0.5), random.uniform(0.22, 0.4), random.uniform(0.18, 0.4)
    piece.box((width, depth, height), (0, 0, 0), tx.Material('noise', colour, tx.shade_of(colour, 0.85), 9.0))
    piece.box((0.05, depth + 0.002, height * 0.98 + 0.01), (0, 0, 0), tx.plain(*tx.shade_of(colour, 1.35)))
    return piece


@furniture
def plant(random: Random) -> Piece:
    """A pot with a stem and a crown of leaves."""
    piece, size = Piece('plant'), random.uniform(0.8, 1.2)
    pot, colour = 0.13 * size, tx.shade_of((0.1, 0.4, 0.12), random.uniform(0.7, 1.4))
    leaf = tx.Material('noise', colour, tx.shade_of(colour, 0.5), 14.0)
    piece.cylinder(pot * 0.8, 0.26 * size, (0, 0, 0), tx.plastic(random), taper=1.25)
    piece.cylinder(0.02, 0.5 * size, (0, 0, 0.2 * size), tx.plain(0.25, 0.16, 0.08))
    for _ in range(int(random.integers(8, 13))):
        turn, reach, z = random.uniform(0, 360), random.uniform(0.02, 0.2) * size, random.uniform(0.4, 0.95) * size
        at = about_z(turn) @ [0.0, reach, z]
        length = random.uniform(0.16, 0.3) * size
        piece.ball((length * 0.6, length, length * 0.5), tuple(at), leaf, tilt=random.uniform(-40, 40), turn=turn)
    return piece


@furniture
def picture(random: Random) -> Piece:
    """A framed picture; hangs on a wall."""
    piece, width, height = Piece('picture'), random.uniform(0.35, 0.95), random.uniform(0.35, 0.75)
    piece.box((width, 0.025, height), (0, 0, 0), tx.wood(random))
    piece.box((width - 0.06, 0.01, height - 0.06), (0, -0.012, 0.03), tx.art(random))
    return piece


@furniture
def mirror(random: Random) -> Piece:
    """A framed mirror, which here is only bluish grey; hangs on a wall."""
    piece, width, height = Piece('mirror'), random.uniform(0.45, 0.7), random.uniform(0.6, 0.9)
    piece.box((width, 0.025, height), (0, 0, 0), tx.wood(random))
    piece.box((width - 0.05, 0.01, height - 0.05), (0, -0.012, 0.025), tx.plain(0.6, 0.68, 0.72))
    return piece


@furniture
def whiteboard(random: Random) -> Piece:
    """A white board with an aluminium frame and a tray; hangs on a wall."""
    piece, width, height = Piece('whiteboard'), random.uniform(1.1, 1.9), random.uniform(0.9, 1.15)
    piece.box((width, 0.025, height), (0, 0, 0.02), tx.plain(0.5, 0.5, 0.52))
    piece.box((width - 0.05, 0.01, height - 0.05), (0, -0.012, 0.045), tx.plain(0.9, 0.9, 0.9))
    piece.box((width * 0.5, 0.07, 0.02), (0, -0.04, 0), tx.plain(0.5, 0.5, 0.52))
    return piece


@furniture
def towel(random: Random) -> Piece:
    """A towel over a rail; hangs on a wall."""
    piece, cloth, width = Piece('towel'), tx.fabric(random), random.uniform(0.35, 0.55)
    piece.box((width, 0.03, random.uniform(0.5, 0.75)), (0, -0.04, 0), cloth)
    piece.box((width + 0.12, 0.02, 0.02), (0, -0.02, 0.48), tx.metal(random))
    return piece


@furniture
def radiator(random: Random) -> Piece:
    """A ribbed radiator under a window."""
    piece, cover, width = Piece('radiator'), tx.ceramic(random), random.uniform(0.7, 1.2)
    piece.box((width, 0.04, 0.5), (0, 0, 0.12), cover)
    for x in np.linspace(-width / 2 + 0.04, width / 2 - 0.04, int(random.integers(7, 11))):
        piece.box((0.04, 0.1, 0.5), (x, 0, 0.12), cover)
    for x in (-width / 2 + 0.08, width / 2 - 0.08):
        piece.box((0.03, 0.05, 0.12), (x, 0, 0), cover)
    return piece


@furniture
def door(random: Random) -> Piece:
    """A closed door in its frame."""
    piece, leaf = Piece('door'), tx.wood(random) if random.random() < 0.8 else tx.plastic(random)
    width, height = random.uniform(0.8, 0.95), random.uniform(1.98, 2.08)
    frame = tx.paint(random)
    piece.box((width, 0.05, height), (0, 0, 0), leaf)
    for x in (-1, 1):
        piece.box((0.07, 0.08, height + 0.07), (x * (width / 2 + 0.035), 0, 0), frame)
    piece.box((width, 0.08, 0.07), (0, 0, height), frame)
    if random.random() < 0.6:
        for low, high in ((0.15, 0.9), (1.05, height - 0.15)):
            piece.box((width - 0.3, 0.015, high - low), (0, -0.028, low), tx.plain(*tx.shade_of(leaf.colour, 0.88)))
    side = width / 2 - 0.07
    piece.ball((0.05, 0.05, 0.05), (side, -0.06, 1.0), tx.metal(random))
    piece.cylinder(0.012, 0.05, (side, -0.035, 1.0), tx.plain(0.4, 0.4, 0.4))
    return piece


@furniture
def window(random: Random) -> Piece:
    """Two bright panes in a frame with a sill; sits in a wall."""
    piece, frame = Piece('window'), tx.paint(random)
    width, height = random.uniform(1.0, 1.8), random.uniform(0.9, 1.3)
    level = random.uniform(0.75, 0.95)
    piece.box((width - 0.04, 0.04, height - 0.04), (0, 0.01, 0.05), tx.emissive(level * 0.82, level * 0.93, level))
    for z in (0.03, height - 0.02):
        piece.box((width, 0.07, 0.05), (0, 0, z), frame)
    for x in (-width / 2 + 0.025, 0.0, width / 2 - 0.025):
        piece.box((0.05, 0.07, height), (x, 0, 0.03), frame)
    piece.box((width + 0.14, 0.16, 0.03), (0, -0.05, 0), frame)
    return piece


def _drapes(random: Random, label: str, width: float, height: float) -> Piece:
    """Hanging folds of cloth."""
    piece, cloth, folds = Piece(label), tx.fabric(random), max(4, round(width / 0.075))
    step = width / folds
    for index in range(folds):
        at = (-width / 2 + (index + 0.5) * step, 0.02 * (index % 2) - 0.01, 0.0)
        piece.cylinder(step * 0.62, height, at, cloth)
    return piece


@furniture
def curtain(random: Random) -> Piece:
    """One wing of a curtain."""
    return _drapes(random, 'curtain', random.uniform(0.28, 0.42), random.uniform(1.75, 2.1))


@furniture
def shower_curtain(random: Random) -> Piece:
    """A curtain beside a bathtub."""
    return _drapes(random, 'shower curtain', random.uniform(0.6, 0.8), random.uniform(1.6, 1.8))


@furniture
def toilet(random: Random) -> Piece:
    """A bowl with lid and cistern."""
    piece, glaze = Piece('toilet'), tx.ceramic(random)
    lid = glaze if random.random() < 0.7 else tx.wood(random)
    piece.cylinder(0.13, 0.36, (0, 0, 0), glaze, taper=1.25)
    piece.ball((0.37, 0.46, 0.2), (0, -0.04, 0.2), glaze)
    piece.cylinder(0.19, 0.035, (0, -0.03, 0.38), lid)
    width = random.uniform(0.34, 0.42)
    piece.box((width, 0.18, 0.36), (0, 0.25, 0.38), glaze)
    piece.box((width + 0.02, 0.2, 0.03), (0, 0.25, 0.74), glaze)
    piece.box((0.2, 0.16, 0.36), (0, 0.24, 0.02), glaze)
    return piece


@furniture
def bathtub(random: Random) -> Piece:
    """A tub with rims around a low bottom."""
    piece, glaze = Piece('bathtub'), tx.ceramic(random)
    length, depth, height = random.uniform(1.5, 1.75), random.uniform(0.7, 0.8), random.uniform(0.5, 0.58)
    piece.box((length, depth, 0.15), (0, 0, 0), glaze)
    for side in (-1, 1):
        piece.box((length, 0.07, height - 0.15), (0, side * (depth / 2 - 0.035), 0.15), glaze)
        piece.box((0.1, depth - 0.14, height - 0.15), (side * (length / 2 - 0.05), 0, 0.15), glaze)
    piece.cylinder(0.02, 0.15, (length / 2 - 0.05, 0, height), tx.metal(random))
    return piece


@furniture
def backpack(random: Random) -> Piece:
    """A backpack that stands on the floor."""
    piece, cloth = Piece('backpack'), tx.fabric(random)
    piece.ball((0.34, 0.24, random.uniform(0.42, 0.52)), (0, 0, -0.02), cloth)
    piece.box((0.28, 0.17, 0.36), (0, 0, 0), cloth)
    piece.box((0.22, 0.09, 0.2), (0, -0.11, 0.03), tx.fabric(random))
    return piece
