"""Are the rooms on this machine the frozen ones? To the byte with the same library versions, else to a tolerance.

A fingerprint of a scene folder holds a hash of its bytes and, for other machines and versions, depth and instance id
at PROBES pixels, the number of mesh vertices and their mean. Those of a preset's rooms lie in `hashes/<preset>.json`.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from jrs.errors import DataError
from jrs.io.atomic import atomic_write
from jrs.io.ply import read_ply
from jrs.io.png import read_png16
from jrs.synth.presets import GENERATOR_VERSION

FOLDER = Path(__file__).parent / 'hashes'
PROBES, PROBES_AGREE = 16, 14                               # pixels looked at, and how many of them must agree
DEPTH_TOLERANCE = 2                                         # millimetres
VERTEX_TOLERANCE, MEAN_TOLERANCE = 0.005, 0.003             # share of the vertices, metres
TOLERANCE = (f'at least {PROBES_AGREE} of {PROBES} pixels have the same object and a depth within {DEPTH_TOLERANCE} mm, '
             f'the mesh has as many vertices within {VERTEX_TOLERANCE:.1%} and their mean within {MEAN_TOLERANCE} m')


@dataclass(frozen=True)
class Fingerprint:
    """What is compared of a scene.

    Attributes:
        bytes: hash of images, mesh, cameras, frames and objects.
        depth: millimetres at the probes; ids: instance ids there (65535 = ignore).
        vertices: of the mesh; mean: of them, (3,) metres.
    """

    bytes: str
    depth: list[int]
    ids: list[int]
    vertices: int
    mean: list[float]

    def resembles(self, other: Fingerprint) -> bool:
        """Whether two scenes are the same within TOLERANCE."""
        near = np.abs(np.subtract(self.depth, other.depth)) <= DEPTH_TOLERANCE
        agree = (near & np.equal(self.ids, other.ids)).sum() >= PROBES_AGREE
        vertices = abs(self.vertices - other.vertices) <= VERTEX_TOLERANCE * other.vertices
        return bool(agree and vertices and np.abs(np.subtract(self.mean, other.mean)).max() <= MEAN_TOLERANCE)


def fingerprint(scene: Path) -> Fingerprint:
    """Return the fingerprint of a scene folder."""
    depth, ids = _probe(scene)
    vertices, _ = read_ply(scene / 'mesh.ply')
    mean = [round(float(vertices[axis].astype(np.float64).mean()), 5) for axis in 'xyz']
    return Fingerprint(_digest(scene), depth, ids, len(vertices['x']), mean)


def _digest(scene: Path) -> str:
    """Return a hash of the bytes of images and mesh, and of cameras, frames and objects of the record."""
    record = json.loads((scene / 'scene.json').read_text(encoding='utf-8-sig'))
    kept = {name: record[name] for name in ('cameras', 'frames', 'instances')}
    digest = hashlib.sha256(json.dumps(kept, sort_keys=True).encode())
    for path in sorted(path for path in scene.rglob('*') if path.is_file() and path.name != 'scene.json'):
        data = path.read_bytes()
        digest.update(f'{path.relative_to(scene).as_posix()} {len(data)}\n'.encode() + data)
    return digest.hexdigest()[:32]


def _probe(scene: Path) -> tuple[list[int], list[int]]:
    """Return depth in millimetres and instance id at PROBES pixels, spread over views, rows and columns."""
    names = sorted((path.name for path in (scene / 'depth').iterdir()), key=lambda name: (len(name), name))
    depth, ids = [], []
    for number in range(1, PROBES + 1):
        view, row, column = (number * step % 1.0 for step in (0.8191725, 0.6710436, 0.5497004))    # an R3 sequence
        name = names[int(view * len(names))]
        images = [read_png16(scene / folder / name) for folder in ('depth', 'instances')]
        at = tuple(int(share * side) for share, side in zip((row, column), images[0].shape, strict=True))
        for values, image in zip((depth, ids), images, strict=True):
            values.append(int(image[at]))
    return depth, ids


def write_fingerprints(path: Path, preset: str, made_with: dict[str, str], scenes: Iterable[Path]) -> None:
    """Write the fingerprints of scene folders, one line each."""
    lines = ',\n'.join(f'  {json.dumps(scene.name)}: {json.dumps(asdict(fingerprint(scene)))}' for scene in scenes)
    head = json.dumps({'preset': preset, 'generator_version': GENERATOR_VERSION, 'made_with': made_with})
    with atomic_write(path, 'w') as file:
        file.write(f'{head[:-1]}, "scenes": {{\n{lines}\n}}}}\n')


def read_fingerprints(preset: str) -> tuple[dict[str, str], dict[str, Fingerprint]]:
    """Return the library versions that a preset's frozen rooms were made with, and scene name -> fingerprint.

    Raises:
        DataError: there are none of this preset, or they are of another version of the generator.
    """
    path = FOLDER / f'{preset}.json'
    if not path.is_file():
        known = ', '.join(sorted(file.stem for file in FOLDER.glob('*.json')))
        raise DataError(f'No fingerprints of the preset {preset!r} are kept; there are some of: {known}.')
    kept = json.loads(path.read_text(encoding='utf-8-sig'))
    if kept['generator_version'] != GENERATOR_VERSION:
        raise DataError(f'{path} is of generator version {kept["generator_version"]}, this is {GENERATOR_VERSION}: rooms '
                        'cannot be compared.')
    return kept['made_with'], {name: Fingerprint(**values) for name, values in kept['scenes'].items()}


def compare(preset: str, scenes: Iterable[Path]) -> dict[str, list[str]]:
    """Return the names of scenes by how near they are to the frozen ones: 'identical', 'within tolerance', 'different'."""
    _, frozen = read_fingerprints(preset)
    found: dict[str, list[str]] = {'identical': [], 'within tolerance': [], 'different': []}
    for scene in scenes:
        mine, wanted = fingerprint(scene), frozen.get(scene.name)
        same = wanted is not None and mine.bytes == wanted.bytes
        near = wanted is not None and mine.resembles(wanted)
        found['identical' if same else 'within tolerance' if near else 'different'].append(scene.name)
    return found
