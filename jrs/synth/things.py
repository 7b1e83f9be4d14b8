"""Small things that stand on the floor or on furniture: screens, lamps, bins, plants, cushions."""

from __future__ import annotations

from jrs.synth import textures as tx
from jrs.synth.pieces import Piece, Random, about_z, furniture


@furniture
def pillow(random: Random) -> Piece:
    """A soft cushion, lying."""
    piece, cover = Piece('pillow'), tx.fabric(random) if random.random() < 0.6 else tx.plain(0.86, 0.86, 0.84)
    width, depth = random.uniform(0.42, 0.65), random.uniform(0.36, 0.44)
    piece.ball((width, depth, 0.17), (0, 0, 0), cover)
    piece.box((width * 0.7, depth * 0.7, 0.07), (0, 0, 0.05), cover)
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
def backpack(random: Random) -> Piece:
    """A backpack that stands on the floor."""
    piece, cloth = Piece('backpack'), tx.fabric(random)
    piece.ball((0.34, 0.24, random.uniform(0.42, 0.52)), (0, 0, -0.02), cloth)
    piece.box((0.28, 0.17, 0.36), (0, 0, 0), cloth)
    piece.box((0.22, 0.09, 0.2), (0, -0.11, 0.03), tx.fabric(random))
    return piece
