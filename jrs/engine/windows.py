"""Hundreds of photos in windows that overlap: one forward pass each, kept on disk, gone on with after a kill.

Memory is that of one window. `jrs.engine.joined` brings the windows together.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import zipfile
from collections.abc import Callable, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from jrs import __version__
from jrs.engine.inference import Reconstructor, Scene
from jrs.engine.memory import give_back_memory
from jrs.engine.words import open_head
from jrs.errors import DataError
from jrs.geometry.cloud import check_finite
from jrs.io.atomic import atomic_write
from jrs.io.images import LoadedPhotos, SourceViews
from jrs.io.progress import Progress
from jrs.structures import Instances, PackedMasks, Reconstruction

FOLDER = 'windows'                             # of an output
SETTINGS = 'settings.json'                     # in it
SAMPLE = 2**20                                 # bytes at the start, the middle and the end of a file that tell it apart
DIGESTS = dict(config='another config', words='other embeddings of its words')         # settings that say nothing to people
SHOWN = 200                                    # characters of a value in a message


@dataclass(frozen=True)
class Plan:
    """Which of V views each window has: `size` each, `overlap` of them shared with the next.

    So many views of the first window, its `anchors`, are in all others too, behind their own.

    Raises:
        DataError: the overlap leaves nothing to share or nothing new; there are more anchors than views in a window.
    """

    views: int
    size: int
    overlap: int
    anchors: int = 0

    def __post_init__(self) -> None:
        if not 1 <= self.overlap < self.size:
            raise DataError(f'--overlap must be in 1 .. {self.size - 1} for windows of {self.size} views, got {self.overlap}'
                            ': windows are joined by what they share, and each must bring new views.')
        if not 0 <= self.anchors <= self.size:
            raise DataError(f'--anchors must be in 0 .. {self.size}, the views of the first window, got {self.anchors}.')

    @property
    def spans(self) -> list[tuple[int, int]]:
        """The views (start, stop) of each window; the last one has what remains."""
        starts = range(0, max(self.views - self.overlap, 1), self.size - self.overlap)
        return [(start, min(start + self.size, self.views)) for start in starts]

    @property
    def anchored(self) -> list[int]:
        """The anchors, evenly spaced in the first window."""
        last = min(self.size, self.views) - 1
        return sorted({*np.linspace(0, last, self.anchors).round().astype(int).tolist()})

    def places(self, number: int) -> list[int]:
        """Return the views of a window: its own, then the anchors before them."""
        start, stop = self.spans[number]
        return [*range(start, stop), *(view for view in self.anchored if view < start)]

    @property
    def owned(self) -> list[tuple[int, int]]:
        """The views (start, stop) whose results are taken from each window: half of the shared ones."""
        cuts = [0, *(start + self.overlap // 2 for start, _ in self.spans[1:]), self.views]
        return list(zip(cuts[:-1], cuts[1:], strict=True))


class StoredWindows:
    """The results of windows in `out`/windows: NNNN.npz each, whole or not there, and settings.json, what they belong to.

    Raises:
        DataError: what is there was made by another model, from other photos, or with other settings.
    """

    def __init__(self, out: Path, settings: dict) -> None:
        self.folder = out / FOLDER
        path = self.folder / SETTINGS
        settings = json.loads(json.dumps(settings))                 # tuples are lists in a file
        if path.is_file():
            _refuse_others(path, settings)
        else:
            if old := self._numbers():
                raise DataError(f'{self.folder} holds {len(old)} windows and no {SETTINGS} that says what they belong to: '
                                'remove it, or choose another --out.')
            with atomic_write(path, 'w') as file:
                file.write(json.dumps(settings, indent=1) + '\n')

    def _numbers(self) -> list[int]:
        return sorted(int(path.stem) for path in self.folder.glob('*.npz') if path.stem.isdigit())

    def path(self, number: int) -> Path:
        """Return the file of a window."""
        return self.folder / f'{number:04d}.npz'

    def has(self, number: int) -> bool:
        """Return whether a window is finished."""
        return self.path(number).is_file()

    def write(self, number: int, scene: Scene) -> None:
        """Keep a window.

        Raises:
            DataError: depth, cameras or scores are not finite.
        """
        check_finite(scene.reconstruction, f'window {number} is not kept')
        with atomic_write(self.path(number)) as file:
            np.savez(file, **_arrays(scene))

    @contextmanager
    def open(self, number: int):
        """Give the arrays of a window by name, each read when it is asked for.

        Raises:
            DataError: the file is damaged.
        """
        path = self.path(number)
        try:
            arrays = np.load(path)
        except (zipfile.BadZipFile, EOFError, ValueError, OSError) as error:
            raise DataError(_damaged(path, error)) from error
        with arrays:
            try:
                yield arrays
            except (zipfile.BadZipFile, EOFError) as error:
                raise DataError(_damaged(path, error)) from error


def run_windows(reconstruct: Reconstructor, views: SourceViews, plan: Plan, store: StoredWindows,
                say: Callable[[str], None] = print) -> int:
    """Reconstruct and keep every window that is not kept yet; return how many that were.

    Args:
        reconstruct: a model ready for photos.
        views: of the whole scene.
        plan: which views go together.
        store: where results lie.
        say: takes a line per window: its number, rate, time left, memory.

    Raises:
        DataError: the model has no camera head, without which windows cannot be joined.
    """
    check_joinable(reconstruct)
    spans = plan.spans
    missing = [number for number in range(len(spans)) if not store.has(number)]
    if len(missing) < len(spans):
        say(f'{len(spans) - len(missing)} of {len(spans)} windows are there already, of an earlier run')
    progress, said = Progress(len(spans), 'windows', done=len(spans) - len(missing)), set()
    for number in missing:
        start, stop = spans[number]
        photos = views.load(plan.places(number))
        for remark in photos.remarks:
            if remark not in said:
                say(remark)
                said.add(remark)
        scene = _seen_in(reconstruct(photos), stop - start)
        store.write(number, scene)
        count = 'no queries' if scene.instances is None else f'{len(scene.instances)} instances'
        del scene, photos
        give_back_memory()
        say(progress.step(f'window {number}: views {start} to {stop - 1}, {count}'))
    return len(missing)


def _seen_in(scene: Scene, own: int) -> Scene:
    """Return a window without the instances that none of its first `own` views shows: anchors are another window's."""
    found = scene.reconstruction
    if found.instances is None or own == len(found.view_names):
        return scene
    kept = found.instances.packed.pixels()[:, :own].any(1)
    return dataclasses.replace(scene, reconstruction=dataclasses.replace(found, instances=found.instances.select(kept)))


def check_joinable(reconstruct: Reconstructor) -> None:
    """Raise a DataError where a model has no camera head: windows are joined by their cameras."""
    if not reconstruct.predicts('camera_head'):
        raise DataError('The model has no camera head, and windows are joined by their cameras: leave out --windows.')


def settings_of(reconstruct: Reconstructor, checkpoint: Path, views: SourceViews, plan: Plan,
                further: dict | None = None) -> dict:
    """Return what results of windows depend on: weights, config, photos and options; `further` ones of a command too.

    Files are told apart by their size and what stands at their start, middle and end; words by their text embeddings.
    """
    options = {name: getattr(reconstruct, name) for name in ('width', 'agnostic', 'min_score', 'keep_all')}
    config = hashlib.sha256(reconstruct.cfg.pretty_text.encode()).hexdigest()
    originals, known = views.originals, {}
    for original in originals:
        if original.path not in known:
            known[original.path] = fingerprint(original.path)
    photos = [[name, original.frame, known[original.path]] for name, original in zip(views.names, originals, strict=True)]
    head = None if reconstruct.agnostic else open_head(reconstruct.model)
    rows = None if head is None else head.words.rows(reconstruct.class_names).float().cpu().numpy()
    words = None if rows is None else hashlib.sha256(rows.tobytes()).hexdigest()
    return dict(version=__version__, weights=fingerprint(checkpoint), config=config, words=words, windows=plan.size,
                overlap=plan.overlap, anchors=plan.anchors, **options, classes=list(reconstruct.class_names),
                **(further or {}), photos=photos)


def fingerprint(path: Path) -> str:
    """Return what tells a file from others: its size, and the digest of its start, middle and end."""
    size = os.path.getsize(path)
    digest = hashlib.sha256()
    with open(path, 'rb') as file:
        for place in sorted({0, max(size // 2 - SAMPLE // 2, 0), max(size - SAMPLE, 0)}):
            file.seek(place)
            digest.update(file.read(SAMPLE))
    return f'{size} bytes, {digest.hexdigest()[:16]}'


def _damaged(path: Path, error: Exception) -> str:
    return f'The window {path} cannot be read ({error}): remove it and run the same command again, which makes it anew.'


def _refuse_others(path: Path, settings: dict) -> None:
    """Raise a DataError where the settings in a file are not these."""
    try:
        there = json.loads(path.read_text(encoding='utf-8-sig'))
    except ValueError as error:
        raise DataError(f'{path} is damaged ({error}): remove {path.parent}, or choose another --out.') from error
    other = [name for name in {**settings, **there} if there.get(name) != settings.get(name)]
    if not other:
        return
    words = []
    for name in other:
        if name == 'photos':
            old, new = (record.get(name) or [] for record in (there, settings))
            changed = sum(one != two for one, two in zip(old, new, strict=False)) + abs(len(old) - len(new))
            words.append(f'{changed} other photos ({len(old)} then, {len(new)} now)')
        elif name in DIGESTS:
            words.append(DIGESTS[name])
        else:
            words.append(f'{name} was {_short(there.get(name))}, now {_short(settings.get(name))}')
    raise DataError(f'{path.parent} holds windows of another run: {"; ".join(words)}. They do not go together: choose '
                    f'another --out, remove {path.parent}, or run the command as it was.')


def _short(value: object) -> str:
    text = json.dumps(value)
    return text if len(text) <= SHOWN else text[:SHOWN] + '…'


def _arrays(scene: Scene) -> dict[str, np.ndarray]:
    found, photos = scene.reconstruction, scene.photos
    arrays = dict(images=photos.images.mul(255).round().clamp(0, 255).to(torch.uint8), valid=photos.valid,
                  input_from_original=photos.input_from_original, original_sizes=torch.tensor(photos.original_sizes))
    arrays |= {name: getattr(found, name) for name in ('depth', 'depth_conf', 'intrinsics', 'cam_from_world')}
    if (own := found.instances) is not None:
        arrays |= dict(bits=own.packed.bits, rows=own.packed.rows, mask_size=torch.tensor(own.packed.size),
                       labels=own.labels, scores=own.scores, queries=own.queries, embedding=own.embedding)
    kept = {name: value.detach().cpu() for name, value in arrays.items() if value is not None}
    kept = {name: (value.float() if value.dtype == torch.bfloat16 else value).numpy() for name, value in kept.items()}
    words = dict(scale=found.scale, ranking='' if own is None else own.ranking, notes=photos.notes)
    return kept | dict(words=np.frombuffer(json.dumps(words).encode(), np.uint8))


def words_of_window(arrays) -> dict:
    """Return the `scale` and `ranking` of a window in words, and the `notes` on its photos."""
    return json.loads(bytes(arrays['words']).decode())


def stored_scene(arrays, places: Sequence[int] | slice, names: Sequence[str], originals: Sequence) -> tuple[Reconstruction,
                                                                                                      LoadedPhotos]:
    """Return some views of a window as it was found, and their photos.

    Args:
        arrays: of `StoredWindows.open`.
        places: which views, counted from the first of the window.
        names, originals: of these views.
    """
    def some(name: str) -> torch.Tensor | None:
        return torch.from_numpy(arrays[name][places]) if name in arrays else None
    images = some('images').float().div(255)
    sizes = [tuple(size) for size in arrays['original_sizes'][places].tolist()]
    photos = LoadedPhotos(images, some('valid'), list(names), sizes, some('input_from_original'), list(originals))
    words, instances = words_of_window(arrays), None
    if 'scores' in arrays:
        labels, scores, queries, rows = (torch.from_numpy(arrays[name]) for name in ('labels', 'scores', 'queries', 'rows'))
        bits = torch.from_numpy(arrays['bits'][:, places])
        packed = PackedMasks(bits, rows, tuple(arrays['mask_size'].tolist()))
        instances = Instances(packed, labels, scores, queries, ranking=words['ranking'])
    found = Reconstruction(images, some('depth'), some('depth_conf'), some('intrinsics'), some('cam_from_world'),
                           instances=instances, view_names=list(names), scale=words['scale'])
    return found, photos
