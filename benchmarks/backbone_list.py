"""Which backbones there are, and by which two configs each is compared: read from the registry and from plugins' folders."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from jrs.config import resolve_config
from jrs.discovery import available
from jrs.plugins import load_plugins
from jrs.registry import BACKBONES, owner_of

ROOT = Path(__file__).resolve().parents[1]
BUILT_IN = (ROOT / 'configs' / 'geometry' / 'segvggt_geometry_only.py', ROOT / 'configs' / 'segvggt' / 'all24_fada.py')


@dataclass(frozen=True)
class Backbone:
    """A row of the comparison.

    Attributes:
        name: type of the backbone; with '+' and the type of its attention over all views where the config changes that.
        part: type of the backbone.
        width: of its tokens as published.
        geometry, fine_tuning: configs that train cameras and depth, and queries on top.
    """

    name: str
    part: str
    width: int
    geometry: Path
    fine_tuning: Path


def listed(plugins: Path | None = None) -> tuple[list[Backbone], list[str]]:
    """Return every backbone that has configs, VGGT first, and a line for every one that has not.

    Args:
        plugins: only those below this folder; None = all that can be named without a path.

    A plugin takes part through `configs/<name>_geometry.py` with `<name>_fada.py` beside it. Of several sizes of one
    backbone the smallest takes part: a profile makes all of them as small.
    """
    names = [name for name, place in available().items() if plugins is None or place and place.is_relative_to(plugins)]
    own = {name: load_plugins([name]).places[name] for name in names}
    found: dict[str, Backbone] = {}
    lacking = []
    for geometry, fine_tuning in [BUILT_IN, *(pair for place in own.values() for pair in _pairs(place))]:
        if not fine_tuning.is_file():
            lacking.append(f'{geometry.stem}: no {fine_tuning.name} beside it')
            continue
        one = _backbone(geometry, fine_tuning)
        if one.name not in found or one.width < found[one.name].width:
            found[one.name] = one
    parts = {one.part for one in found.values()}
    for name in BACKBONES.names():
        part = BACKBONES.get(name)
        core = part.__module__.partition('.')[0] == 'jrs'
        if name not in parts and (core or owner_of(part) in own):
            lacking.append(f'{name} ({owner_of(part)}): no configs/<name>_geometry.py with <name>_fada.py beside it')
    return list(found.values()), lacking


def _pairs(place: Path) -> Iterator[tuple[Path, Path]]:
    """Yield the configs of a plugin: of geometry, and the one of fine-tuning that belongs to it, there or not."""
    for path in sorted((place if place.is_dir() else place.parent).glob('configs/*_geometry.py')):
        yield path, path.with_name(path.name.replace('_geometry.py', '_fada.py'))


def _backbone(geometry: Path, fine_tuning: Path) -> Backbone:
    settings = resolve_config(geometry).model.backbone
    attention = settings.get('global_attention')
    name = f'{settings.type}+{attention.type}' if attention else settings.type
    return Backbone(name, settings.type, settings.get('embed_dim', 0), geometry, fine_tuning)
