"""The sizes in which the built-in rooms come."""

from __future__ import annotations

from dataclasses import dataclass

from jrs.errors import ConfigError, did_you_mean

GENERATOR_VERSION = 2                                       # raise it whenever a preset's bytes change


@dataclass(frozen=True)
class Preset:
    """A named set of rooms; data is reproducible from (GENERATOR_VERSION, preset, seed).

    Attributes:
        train, val: rooms of the two splits; validation rooms have the higher scan ids.
        frames: views per room, on one loop of the camera.
        size: (height, width) of colour and depth.
        spacing: metres between mesh vertices on large surfaces.
        object_vertices: aimed at on smaller objects, before hidden faces are dropped.
    """

    name: str
    train: int
    val: int
    frames: int
    size: tuple[int, int]
    spacing: float = 0.12
    object_vertices: int = 550
    seed: int = 0


PRESETS = {preset.name: preset for preset in (
    Preset('debug', 6, 2, 12, (42, 56), spacing=0.2, object_vertices=300),
    Preset('tiny', 160, 32, 48, (84, 112)),
    Preset('small', 400, 64, 64, (84, 112)),
)}


def find_preset(name: str) -> Preset:
    """Return a preset by name.

    Raises:
        ConfigError: no such preset; says which there are.
    """
    if name not in PRESETS:
        raise ConfigError(f'There is no set of rooms {name!r}.{did_you_mean(name, PRESETS)}')
    return PRESETS[name]
