"""Pieces that only the style `shifted` has: other shapes under the labels of known ones."""

from __future__ import annotations

import numpy as np

from jrs.synth import textures as tx
from jrs.synth.pieces import Piece, about_z, furniture

Random = np.random.Generator


@furniture
def shell_chair(random: Random) -> Piece:
    """A moulded shell on a trumpet foot."""
    piece, foot, shell, seat = Piece('chair'), tx.metal(random), tx.plastic(random), random.uniform(0.42, 0.47)
    width = random.uniform(0.46, 0.54)
    piece.cylinder(0.24, 0.03, (0, 0, 0), foot, taper=0.3)
    piece.cylinder(0.03, seat - 0.05, (0, 0, 0.02), foot)
    piece.ball((width, width, 0.14), (0, 0, seat - 0.08), shell)
    piece.ball((width * 0.95, 0.1, random.uniform(0.4, 0.55)), (0, width * 0.42, seat - 0.02), shell, tilt=-8)
    return piece


@furniture
def trestle_table(random: Random) -> Piece:
    """A plank on two slanted frames."""
    piece, top, frame = Piece('table'), tx.wood(random), tx.metal(random)
    width, depth, height = random.uniform(1.3, 1.9), random.uniform(0.7, 0.9), random.uniform(0.72, 0.78)
    piece.box((width, depth, 0.06), (0, 0, height - 0.06), top)
    for x in (-width / 2 + 0.3, width / 2 - 0.3):
        for tilt in (-12, 12):
            piece.box((0.06, 0.05, height - 0.05), (x, -np.sign(tilt) * 0.16, 0), frame, tilt=tilt)
        piece.box((0.05, depth * 0.6, 0.05), (x, 0, 0.2), frame)
    piece.top = height
    return piece


@furniture
def corner_couch(random: Random) -> Piece:
    """A low sofa with one long seat and bolsters."""
    piece, cover, seat = Piece('couch'), tx.fabric(random), random.uniform(0.36, 0.42)
    width, depth, reach = random.uniform(1.7, 2.2), random.uniform(0.8, 0.9), random.uniform(0.35, 0.55)
    piece.box((width, depth, seat), (0, 0, 0), cover)
    piece.box((width * 0.4, reach, seat), (width * 0.3, -depth / 2 - reach / 2, 0), cover)
    for x in np.linspace(-width / 3, width / 3, 3):
        piece.ball((width / 3, 0.26, 0.42), (x, depth / 2 - 0.14, seat - 0.04), cover)
    piece.top = seat
    return piece


@furniture
def post_bed(random: Random) -> Piece:
    """A bed between four posts, with a bolster of blankets at its foot."""
    piece, frame = Piece('bed'), tx.wood(random)
    width, length, height = random.uniform(1.0, 1.7), random.uniform(1.95, 2.1), random.uniform(0.4, 0.5)
    for x in (-width / 2, width / 2):
        for y in (-length / 2 + 0.05, length / 2 - 0.05):
            piece.cylinder(0.05, random.uniform(1.2, 1.5), (x, y, 0), frame, taper=0.6)
    piece.box((width, length - 0.1, 0.16), (0, 0, height - 0.2), frame)
    piece.box((width - 0.08, length - 0.14, 0.18), (0, 0, height - 0.04), tx.fabric(random))
    piece.ball((width * 0.9, 0.4, 0.24), (0, -length / 2 + 0.35, height + 0.08), tx.fabric(random))
    piece.top = height + 0.14
    return piece


@furniture
def pole_rack(random: Random) -> Piece:
    """Boards between four poles, open at the back, with boxes on them."""
    piece, pole, board = Piece('bookshelf'), tx.metal(random), tx.plastic(random)
    width, depth, height = random.uniform(0.8, 1.2), random.uniform(0.3, 0.4), random.uniform(1.3, 1.9)
    for x in (-width / 2, width / 2):
        for y in (-depth / 2, depth / 2):
            piece.cylinder(0.018, height, (x, y, 0), pole)
    for z in np.linspace(0.1, height - 0.05, int(random.integers(3, 5))):
        piece.box((width, depth, 0.03), (0, 0, z), board)
        if z < height - 0.3:
            piece.box((random.uniform(0.2, 0.5) * width, depth * 0.8, random.uniform(0.12, 0.24)),
                      (random.uniform(-0.2, 0.2) * width, 0, z + 0.03), tx.fabric(random))
    piece.top = height
    return piece


@furniture
def globe_lamp(random: Random) -> Piece:
    """A globe on a bent pole."""
    piece, pole, height = Piece('lamp'), tx.metal(random), random.uniform(1.3, 1.6)
    piece.box((0.3, 0.3, 0.05), (0, 0.05, 0), pole)
    piece.cylinder(0.016, height - 0.1, (0, 0.12, 0.03), pole)
    piece.box((0.03, 0.3, 0.03), (0, -0.01, height - 0.1), pole)
    side = random.uniform(0.26, 0.34)
    piece.ball((side, side, side), (0, -0.12, height - 0.1 - side / 2), tx.emissive(0.95, 0.9, 0.75))
    return piece


@furniture
def square_bin(random: Random) -> Piece:
    """A square bin with a swinging lid."""
    piece, cover = Piece('trash can'), tx.plastic(random)
    side, height = random.uniform(0.24, 0.32), random.uniform(0.4, 0.65)
    piece.box((side, side, height), (0, 0, 0), cover)
    piece.box((side * 0.9, side * 0.7, 0.05), (0, 0, height - 0.02), tx.metal(random), tilt=20)
    return piece


@furniture
def cactus(random: Random) -> Piece:
    """A column with arms in a square pot."""
    piece, height = Piece('plant'), random.uniform(0.5, 0.9)
    body = tx.Material('stripes', (0.12, 0.35, 0.16), (0.2, 0.5, 0.2), 16.0)
    piece.box((0.3, 0.3, 0.24), (0, 0, 0), tx.stone(random))
    piece.ball((0.2, 0.2, height), (0, 0, 0.16), body)
    for turn in (random.uniform(0, 180), random.uniform(180, 360)):
        piece.ball((0.1, 0.1, height * 0.45), tuple(about_z(turn) @ [0.0, 0.14, 0.1 + height * 0.45]), body)
    return piece
