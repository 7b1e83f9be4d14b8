"""Two ways for rooms to look: the usual one, and one that shares its classes but neither palette, sizes nor shapes."""

from __future__ import annotations

import colorsys
from collections.abc import Callable
from dataclasses import dataclass, field, replace

from jrs.errors import find_named
from jrs.synth import fixtures, furniture, shifted, things  # noqa: F401  enter their makers into FURNITURE
from jrs.synth.textures import Colour, Material


@dataclass(frozen=True)
class Style:
    """How rooms look.

    Attributes:
        scale: of lengths and widths of a floor plan.
        height: lowest and highest ceiling, metres.
        makers: pieces that take the place of others.
        repaint: changes a material; None = as it is.
    """

    scale: float = 1.0
    height: tuple[float, float] = (2.4, 2.9)
    makers: dict[str, str] = field(default_factory=dict)
    repaint: Callable[[Material], Material] | None = None


_TEXTURES = {'wood': ('stripes', 14.0), 'noise': ('wood', 0.6), 'stripes': ('checker', 0.7), 'checker': ('art', 0.8),
             'plank': ('checker', 0.25), 'tile': ('plank', 1.6)}    # texture -> another, and what its scale is multiplied by


def _repainted(material: Material) -> Material:
    """Return a material of another palette: turned and stronger hues, darker, other patterns. What shines stays."""
    if material.texture == 'emissive':
        return material
    texture, factor = _TEXTURES.get(material.texture, (material.texture, 1.0))
    return replace(material, texture=texture, colour=_turned(material.colour), second=_turned(material.second),
                   scale=material.scale * factor)


def _turned(colour: Colour) -> Colour:
    hue, saturation, value = colorsys.rgb_to_hsv(*colour)
    return colorsys.hsv_to_rgb((hue + 0.45) % 1.0, min(1.0, 0.12 + 1.3 * saturation), 0.08 + 0.72 * value)


STYLES = {
    'usual': Style(),
    'shifted': Style(1.22, (2.9, 3.6), {
        'chair': 'shell_chair', 'table': 'trestle_table', 'couch': 'corner_couch', 'bed': 'post_bed', 'plant': 'cactus',
        'bookshelf': 'pole_rack', 'floor_lamp': 'globe_lamp', 'trash_can': 'square_bin'}, _repainted),
}


def find_style(name: str) -> Style:
    """Return a style by name.

    Raises:
        ConfigError: no such style; says which there are.
    """
    return find_named(STYLES, name, 'style of rooms')
