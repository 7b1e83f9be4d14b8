"""Measures a prepared set of built-in rooms and writes its datasheet; with --hashes also the fingerprints to verify by.

    OMP_NUM_THREADS=1 python benchmarks/rooms_datasheet.py data/rooms/tiny --out docs/rooms_datasheet.md
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from jrs.benchmarks import get_benchmark  # noqa: E402
from jrs.datasets.prepare.scannet import prepare_scannet  # noqa: E402
from jrs.datasets.sampling import spread_views  # noqa: E402
from jrs.datasets.scene import SceneFolder  # noqa: E402
from jrs.io import scannet  # noqa: E402
from jrs.synth import GENERATOR_VERSION, PRESETS, TOLERANCE  # noqa: E402
from jrs.synth.fingerprint import FOLDER, write_fingerprints  # noqa: E402
from jrs.synth.layout import Placed, make_rooms  # noqa: E402
from jrs.synth.presets import Preset  # noqa: E402
from jrs.synth.scan import label_table, write_scan  # noqa: E402
from jrs.synth.styles import STYLES  # noqa: E402

STUFF = ('wall', 'floor', 'ceiling')
PACKAGES = ('numpy', 'scipy', 'opencv-python-headless', 'embreex')
WINDOWS = (12, 16)
TIMED_ROOMS = 4


@dataclass
class Measured:
    """Samples over rooms, things, frames and pairs of frames, by name."""

    samples: dict[str, list] = field(default_factory=dict)
    labels: Counter = field(default_factory=Counter)
    rooms_with: Counter = field(default_factory=Counter)

    def add(self, name: str, values) -> None:
        """Append one value or several."""
        self.samples.setdefault(name, []).extend(np.atleast_1d(values).tolist())

    def mean(self, name: str) -> float:
        """Return the mean of the samples."""
        return float(np.mean(self.samples[name]))

    def row(self, words: str, name: str, digits: int = 2, factor: float = 1.0) -> str:
        """Return a table row: mean, 10, 50, 90 % quantiles, smallest, largest."""
        values = factor * np.array(self.samples[name], float)
        numbers = [values.mean(), *np.percentile(values, (10, 50, 90)), values.min(), values.max()]
        return f'| {words} | ' + ' | '.join(f'{number:.{digits}f}' for number in numbers) + ' |'


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('folder', type=Path, help='of a complete preset, as `tools/prepare.py rooms` writes it')
    parser.add_argument('--out', type=Path, help='the datasheet, Markdown (default: print it)')
    parser.add_argument('--hashes', action='store_true', help=f'write the fingerprints into {FOLDER}')
    args = parser.parse_args()
    preset = PRESETS[json.loads((args.folder / 'rooms.json').read_text())['preset']]
    scenes = sorted(path.parent for path in args.folder.glob('*/scene.json'))
    if args.hashes:
        made_with = {'python': platform.python_version(), **{name: version(name) for name in PACKAGES},
                     'machine': f'{platform.system()} {platform.machine()}'}
        write_fingerprints(FOLDER / f'{preset.name}.json', preset.name, made_with, scenes)
    measured = Measured()
    for scene in scenes:
        measure_scene(SceneFolder(scene), measured)
    for index in range(len(scenes)):
        measure_layout(index, preset, measured)
    text = datasheet(preset, len(scenes), measured, time_rooms(preset))
    print(text)
    if args.out:
        args.out.write_text(text, encoding='utf-8')


def measure_scene(scene: SceneFolder, measured: Measured) -> None:
    """Add what one scene folder shows."""
    things = [instance for instance in scene.instances if instance.label not in STUFF]
    measured.labels.update(thing.label for thing in things)
    measured.rooms_with.update({thing.label for thing in things})
    ids = np.stack([scene.instance_ids(frame) for frame in scene.frames])                # (V, H, W)
    pixels = np.stack([(ids == thing.id).sum(axis=(1, 2)) for thing in things])          # (things, V)
    visible = pixels > 0
    seen = visible.any(axis=1)
    sizes = np.bincount(scene.mesh().instances, minlength=1000)[[thing.id for thing in things]]
    measured.add('things', len(things))
    measured.add('things in masks', seen.sum())
    measured.add('vertices', sizes)
    measured.add('small', sizes < 100)
    measured.add('things per view', visible.sum(axis=0))
    measured.add('visible share', visible[seen].mean(axis=1))
    measured.add('area', pixels[visible] / ids[0].size)
    measured.add('ignored', (ids == -1).mean())
    for views in WINDOWS:
        window = visible[:, spread_views(visible.shape[1], views)]
        window = window[window.any(axis=1)]
        measured.add(f'things in {views}', len(window))
        measured.add(f'mass in {views}', window.mean(axis=1))
    measure_cameras(scene, measured)
    for path in scene.path.rglob('*'):
        if path.is_file():
            kind = path.parent.name if path.parent != scene.path else path.name
            measured.add(f'disk {kind} {scene.name}', path.stat().st_size)


def measure_cameras(scene: SceneFolder, measured: Measured) -> None:
    """Add motion between neighbouring views and depth."""
    world_from_cam = np.linalg.inv(np.stack([frame.cam_from_world for frame in scene.frames]))      # (V, 4, 4)
    between = np.linalg.inv(world_from_cam[:-1]) @ world_from_cam[1:]
    cosine = (np.trace(between[:, :3, :3], axis1=1, axis2=2) - 1) / 2
    measured.add('rotation', np.degrees(np.arccos(np.clip(cosine, -1, 1))))
    measured.add('translation', np.linalg.norm(between[:, :3, 3], axis=1))
    for frame in scene.frames[::4]:
        depth = scene.depth_m(frame)
        for share in (1, 50, 99):
            measured.add(f'depth {share}', np.percentile(depth[depth > 0], share))


def measure_layout(index: int, preset: Preset, measured: Measured) -> None:
    """Add what the generator put into room `index`: parts and identical twins."""
    plan, rooms = make_rooms(np.random.default_rng([GENERATOR_VERSION, preset.seed, index]), STYLES[preset.style])
    things = [thing for room in rooms for thing in room.things]
    counts = Counter(map(identity, things))
    labels = Counter(thing.piece.label for thing in things)
    twins = [counts[identity(thing)] > 1 for thing in things]
    measured.add('two parts', len(plan.parts) > 1)
    measured.add('area of floor', sum(np.prod(high - low) for low, high in plan.parts))
    measured.add('placed', len(things))
    measured.add('same class', [labels[thing.piece.label] > 1 for thing in things])
    measured.add('twin', twins)
    measured.add('rooms with twins', any(twins))
    measured.add('rooms with twins other than curtains',
                 any(twin and thing.piece.label != 'curtain' for twin, thing in zip(twins, things, strict=True)))


def identity(thing: Placed) -> tuple:
    """Return what two identical pieces have in common, wherever they stand."""
    parts = thing.piece.parts
    return thing.piece.label, tuple((part.kind, part.matrix.tobytes(), part.centre.tobytes(), part.material)
                                    for part in parts)


def time_rooms(preset: Preset) -> tuple[float, float]:
    """Return seconds of processor time per room: to generate, to prepare."""
    with tempfile.TemporaryDirectory() as folder:
        raw = Path(folder) / 'raw'
        raw.mkdir()
        start = time.process_time()
        for index in range(TIMED_ROOMS):
            write_scan(raw, index, preset, preset.seed)
        middle = time.process_time()
        scannet.write_label_table(raw / scannet.LABEL_TABLE, label_table())
        prepare_scannet(raw, Path(folder) / 'out', every=1, progress=lambda line: None)
        return (middle - start) / TIMED_ROOMS, (time.process_time() - middle) / TIMED_ROOMS


def datasheet(preset: Preset, rooms: int, measured: Measured, seconds: tuple[float, float]) -> str:
    """Return the datasheet as Markdown."""
    height, width = preset.size
    both = sum(seconds)
    return '\n'.join([
        f'# Rooms v1, preset `{preset.name}`: datasheet', '',
        f'Written by `python benchmarks/rooms_datasheet.py`; every number is measured on the {rooms} rooms themselves.',
        '', '## What it is', '',
        f'Procedurally generated furnished rooms, rendered with `numpy`; no scan, photo or model of anybody is in them. '
        f'{preset.train} rooms train, {preset.val} validate (the highest numbers), {preset.frames} views each of '
        f'{width} x {height} pixels with exact depth, cameras and instance masks, and a labelled mesh with superpoints.',
        '',
        f'Frozen as **rooms v1**: generator version {GENERATOR_VERSION} (version 1 was "v0", never published), seed '
        f'{preset.seed}. Folders of another version are refused. The same library versions give the same bytes, with any '
        f'number of processes; elsewhere {TOLERANCE}. To check:', '',
        f'    python tools/prepare.py rooms --preset {preset.name} --out data/rooms/{preset.name} --verify', '',
        f'Cost, one thread: {seconds[0]:.1f} s of processor time per room to generate and {seconds[1]:.1f} s to prepare '
        f'({TIMED_ROOMS} rooms on {platform.machine()}); all {rooms} rooms {both * rooms / 60:.0f} minutes on one core.', '',
        *_rooms_table(measured), *_disk_table(measured), *_class_table(measured), *NOTES, ''])


def _rooms_table(measured: Measured) -> list[str]:
    m = measured
    twins, others = m.mean('rooms with twins'), m.mean('rooms with twins other than curtains')
    return [
        '## Rooms, things and views', '',
        'A thing is an object that is neither wall, floor nor ceiling; visible is what a mask has a pixel of.',
        '', '| | mean | 10 % | median | 90 % | least | most |', '|---|---|---|---|---|---|---|',
        m.row('floor, square metres', 'area of floor', 1), m.row('things placed per room', 'placed', 1),
        m.row('things scanned (on the mesh) per room', 'things', 1), m.row('things per view', 'things per view', 1),
        m.row('**views that show a thing, % of the views of its room**', 'visible share', 1, 100),
        m.row('image area of a visible thing, %', 'area', 2, 100), m.row('mesh vertices per thing', 'vertices', 0),
        *[row for views in WINDOWS for row in (
            m.row(f'things in {views} views spread over a room', f'things in {views}', 1),
            m.row(f'views of these {views} that show such a thing, %', f'mass in {views}', 1, 100))],
        m.row('rotation between neighbouring views, degrees', 'rotation', 1),
        m.row('translation between neighbouring views, metres', 'translation'),
        m.row('depth of a view, metres: 1 % of its pixels are nearer', 'depth 1'),
        m.row('depth of a view, metres: median', 'depth 50'),
        m.row('depth of a view, metres: 1 % of its pixels are farther', 'depth 99'),
        m.row('mask pixels marked "ignore", %', 'ignored', 1, 100), '',
        f'- {m.mean("two parts"):.0%} of the rooms have two parts behind an opening.',
        f'- {m.mean("same class"):.0%} of the things placed have another of their class in the room; {m.mean("twin"):.0%} '
        f'have an identical twin, which only its place tells apart.',
        f'- {twins:.0%} of the rooms have identical twins, {others:.0%} some that are no pair of curtains.',
        f'- {m.mean("small"):.1%} of the things have fewer than 100 mesh vertices: too small to be scored in 3D.',
        f'- {1 - sum(m.samples["things"]) / sum(m.samples["placed"]):.0%} of the things placed are seen by no view, or '
        'hardly, and are not part of the scan.', '']


def _disk_table(measured: Measured) -> list[str]:
    per_room: dict[str, dict[str, int]] = {}
    for name, sizes in measured.samples.items():
        if name.startswith('disk '):
            _, kind, room = name.split(' ')
            per_room.setdefault(kind, {})[room] = sum(sizes)
    total = sum(sum(rooms.values()) for rooms in per_room.values())
    rows = [f'| {kind} | {np.mean(list(rooms.values())) / 1e3:.0f} |' for kind, rooms in sorted(per_room.items())]
    rooms = len(next(iter(per_room.values())))
    return ['## Disk', '', '| per room | kB |', '|---|---|', *rows, f'| all | {total / rooms / 1e3:.0f} |', '',
            f'{total / 1e6:.0f} MB in all.', '']


def _class_table(measured: Measured) -> list[str]:
    benchmark = get_benchmark('scannet200')
    split = {class_id: name for name, ids in benchmark.splits.items() for class_id in ids}
    split_of = {label: split.get(row.id, '-') for label, row in label_table().items()}
    count = sum(measured.labels.values())
    shares = Counter()
    for label, number in measured.labels.items():
        shares[split_of[label]] += number
    by_split = ', '.join(f'{name} {shares[name] / count:.0%} in {sum(split_of[label] == name for label in measured.labels)} '
                         'classes' for name in benchmark.splits)
    rows = [f'| {label} | {split_of[label]} | {number} | {measured.rooms_with[label]} |'
            for label, number in measured.labels.most_common()]
    return ['## Classes', '', f'{len(measured.labels)} raw categories of ScanNet, {count} things. By the frequency splits '
            f'of ScanNet200: {by_split}.', '', '| category | split | things | rooms |', '|---|---|---|---|', *rows, '']


NOTES = (
    '## What it is not', '',
    '- Not ScanNet: no clutter worth the name, no curved or soft shapes, no mirrors or glass, few lights, one sensor. '
    'Scores on it compare methods with each other, at its own size; they say nothing absolute about real scans.',
    '- Depth, poses and masks are exact up to rounding. `--depth sensor` (holes at edges, at grazing angles and on dark '
    'surfaces, noise that grows with the square of the distance, steps of inverse depth) and `--poses drift` (a random '
    'walk, one sigma 4.5 cm and 1.4 degrees at the end) make them as imperfect as a scanner does; the mesh stays exact.',
    '- `--style shifted` stands in for another data set: other rooms, 22 % larger and with higher ceilings, another palette '
    'and other patterns, and eight categories in shapes that the usual style does not have. The classes are the same.',
    '- Preset `tiny_test` (`jrs/synth/hashes/tiny_test.json`) only scores: 100 rooms of another seed that no training, '
    'choice or demo reads, made as those of `tiny`.',
    '- Preset `tiny_demo` is for `make demo`: rooms of a third seed, made as those of `tiny`. The committed weights were '
    'trained on rooms 0 to 159 of `tiny`, so that a smaller `tiny` (`--rooms`) holds out rooms that they have seen.',
    '- Preset `tiny_more` (`jrs/synth/hashes/tiny_more.json`) only trains: 400 rooms of a fourth seed, made as those of '
    '`tiny`.',
    '- Objects are annotated by superpoints, as in ScanNet: with a small probability (0.06 per pair of touching, coplanar '
    'superpoints) a superpoint of one object belongs to its neighbour, on the mesh and in the masks alike.',
    '- Only what some view sees is on the mesh.')


if __name__ == '__main__':
    main()
