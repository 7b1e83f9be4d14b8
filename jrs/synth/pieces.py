"""What furniture is made of: a piece is a labelled list of boxes, frusta and balls; its maker is entered in FURNITURE.

A maker is one short function per type, from a random generator to a piece that stands on z = 0 (wall-mounted ones too: the
layout lifts them) with its front to -y and its back to +y. The same state of the generator gives the same piece: that is
how a room gets identical twins. Labels are ScanNet's raw categories.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

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
