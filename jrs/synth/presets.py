"""The sizes in which the built-in rooms come."""

from __future__ import annotations

from dataclasses import dataclass, replace

from jrs.errors import ConfigError, did_you_mean, find_named
from jrs.synth.styles import find_style

GENERATOR_VERSION = 2                                       # 2 is "rooms v1", frozen; raise it whenever bytes change
DEPTHS, POSES = ('exact', 'sensor'), ('exact', 'drift')


@dataclass(frozen=True)
class Preset:
    """A named set of rooms; data is reproducible from (GENERATOR_VERSION, preset, seed, departures).

    Attributes:
        train, val: rooms of the two splits; validation rooms have the higher scan ids.
        frames: views per room, on one loop of the camera.
        size: (height, width) of colour and depth.
        spacing: metres between mesh vertices on large surfaces.
        object_vertices: aimed at on smaller objects, before hidden faces are dropped.
        style: a key of STYLES.
        depth: 'exact', or with the holes, noise and steps of a 'sensor'.
        poses: 'exact', or with the 'drift' of a tracker; the mesh is exact in either case.
    """

    name: str
    train: int
    val: int
    frames: int
    size: tuple[int, int]
    spacing: float = 0.12
    object_vertices: int = 550
    seed: int = 0
    style: str = 'usual'
    depth: str = 'exact'
    poses: str = 'exact'

    @property
    def departures(self) -> dict[str, str]:
        """What is not as in the named preset: style, depth, poses."""
        usual = {'style': 'usual', 'depth': 'exact', 'poses': 'exact'}
        return {name: getattr(self, name) for name, value in usual.items() if getattr(self, name) != value}


PRESETS = {preset.name: preset for preset in (
    Preset('debug', 6, 2, 12, (42, 56), spacing=0.2, object_vertices=300),
    Preset('tiny', 160, 32, 48, (84, 112)),
    Preset('small', 400, 64, 64, (84, 112)),
    # Other rooms that look otherwise: for tests on data unlike those of training.
    Preset('debug_shifted', 2, 2, 12, (42, 56), spacing=0.2, object_vertices=300, seed=1, style='shifted'),
    Preset('tiny_shifted', 8, 32, 48, (84, 112), seed=1, style='shifted'),
    # Rooms to score on that no training or choice has seen, made as those of `tiny`.
    Preset('tiny_test', 0, 100, 48, (84, 112), seed=2),
    # Rooms of a demo: those that it holds out must not be among those of `tiny` that its start was trained on.
    Preset('tiny_demo', 160, 32, 48, (84, 112), seed=3),
    # More rooms to train on, made as those of `tiny` and none of them.
    Preset('tiny_more', 400, 0, 48, (84, 112), seed=4),
)}


def find_preset(name: str, departures: dict[str, str] | None = None) -> Preset:
    """Return a preset by name, with other `style`, `depth` or `poses` where `departures` names them.

    Raises:
        ConfigError: no such preset, style, depth or poses; says which there are.
    """
    preset = replace(find_named(PRESETS, name, 'set of rooms'), **departures or {})
    find_style(preset.style)
    for what, value, allowed in (('depth', preset.depth, DEPTHS), ('poses', preset.poses, POSES)):
        if value not in allowed:
            raise ConfigError(f'There is no {what} {value!r} of rooms.{did_you_mean(value, allowed)}')
    return preset
