"""Furniture: to sit, eat, work and sleep on, and to keep things in."""

from __future__ import annotations

import numpy as np

from jrs.synth import textures as tx
from jrs.synth.pieces import Piece, Random, Triple, about_z, furniture
from jrs.synth.textures import Material

Range = tuple[float, float]


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


def _chest(random: Random, label: str, size: Triple, columns: int, rows: int) -> Piece:
    """A carcass on a plinth with doors or drawers."""
    piece, material = Piece(label), tx.wood(random)
    width, depth, height = size
    piece.box((width - 0.04, depth - 0.06, 0.06), (0, 0, 0), tx.plain(0.12, 0.1, 0.09))
    piece.box((width, depth, height - 0.06), (0, 0, 0.06), material)
    _fronts(piece, random, (width, depth, height - 0.08), 0.06, columns, rows)
    piece.top = height
    return piece


def _cabinet(random: Random, label: str, size: tuple[Range, Range, Range], columns: Range, rows: Range) -> Piece:
    """A chest whose sizes and counts are drawn from ranges; the upper end of a count is left out."""
    drawn = tuple(random.uniform(*one) for one in size)
    return _chest(random, label, drawn, int(random.integers(*columns)), int(random.integers(*rows)))


@furniture
def nightstand(random: Random) -> Piece:
    """A small chest beside a bed."""
    return _cabinet(random, 'nightstand', ((0.38, 0.5), (0.34, 0.42), (0.45, 0.6)), columns=(1, 2), rows=(1, 4))


@furniture
def dresser(random: Random) -> Piece:
    """A chest of drawers."""
    return _cabinet(random, 'dresser', ((0.8, 1.3), (0.42, 0.52), (0.8, 1.1)), columns=(1, 3), rows=(3, 6))


@furniture
def low_cabinet(random: Random) -> Piece:
    """A sideboard, also under a television."""
    return _cabinet(random, 'cabinet', ((0.9, 1.6), (0.38, 0.46), (0.42, 0.85)), columns=(2, 4), rows=(1, 3))


@furniture
def tall_cabinet(random: Random) -> Piece:
    """A wardrobe or locker."""
    return _cabinet(random, 'cabinet', ((0.7, 1.3), (0.45, 0.6), (1.6, 2.1)), columns=(1, 4), rows=(1, 3))


@furniture
def wall_cabinet(random: Random) -> Piece:
    """A kitchen cupboard that hangs on a wall."""
    return _cabinet(random, 'cabinet', ((0.7, 1.6), (0.3, 0.36), (0.5, 0.7)), columns=(2, 4), rows=(1, 2))


@furniture
def counter(random: Random) -> Piece:
    """A kitchen counter with a stone top over cupboards."""
    width, depth, height = random.uniform(1.4, 2.4), 0.6, random.uniform(0.86, 0.92)
    piece = _chest(random, 'counter', (width, depth, height - 0.04), int(random.integers(3, 5)), 1)
    piece.box((width + 0.02, depth + 0.03, 0.04), (0, 0, height - 0.04), tx.stone(random))
    piece.top = height
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
