"""What belongs to a wall or a bath: doors, windows, curtains, pictures, basins."""

from __future__ import annotations

import numpy as np

from jrs.synth import textures as tx
from jrs.synth.pieces import Piece, Random, furniture


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
