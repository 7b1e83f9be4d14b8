"""What average precision needs of each scene, kept in one small file beside the scores: intervals without another test."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from zipfile import BadZipFile

import numpy as np

from jrs.benchmarks import Benchmark, get_benchmark
from jrs.errors import DataError
from jrs.evaluation.instance_ap import SceneMatches, resampled
from jrs.io.atomic import atomic_write

MATCHES_FILE = 'matches.npz'                   # its name ends so; before it stands the prefix of the metric
AWARE, AGNOSTIC = 'matches', 'agnostic'
LENGTHS = {'object': 'objects', 'prediction': 'predictions', 'pair': 'pairs'}
# Of what an array of `SceneMatches` has one entry each; rows of the input are not kept.
PER = dict(object_class='object', object_size='object', prediction_class='prediction', score='prediction',
           size='prediction', void='prediction', pair_object='pair', pair_prediction='pair', pair_intersection='pair')


@dataclass(frozen=True)
class KeptMatches:
    """Matches of S scenes by one rule of transfer, as far as a score may read them.

    Attributes:
        names: of the scenes, sorted.
        benchmark, include_095: that they were counted and averaged by.
        by_kind: 'matches' -> class-aware, 'agnostic' -> of one class, each query once; S scenes each.
    """

    names: Sequence[str]
    benchmark: Benchmark
    include_095: bool
    by_kind: Mapping[str, Sequence[SceneMatches]]

    def resampled(self, times: np.ndarray) -> dict[str, np.ndarray]:
        """Return `AP` ... and `agnostic_AP` ..., (B,) each, of draws that have the scenes so many `times` (B, S)."""
        found = {}
        for kind, scenes in self.by_kind.items():
            agnostic = kind == AGNOSTIC
            means = resampled(scenes, self.benchmark, times, agnostic, self.include_095)
            found |= {f'{"agnostic_" if agnostic else ""}{name}': values for name, values in means.items()}
        return found


def keep_matches(names: Sequence[str], benchmark: Benchmark, include_095: bool,
                 by_kind: Mapping[str, Sequence[SceneMatches]]) -> KeptMatches:
    """Return the matches of scenes without what no score reads: pairs, and predictions of classes without any object."""
    kept = {}
    for kind, scenes in by_kind.items():
        scenes = [scene.merge_classes() for scene in scenes] if kind == AGNOSTIC else scenes
        present = np.unique(np.concatenate([scene.object_class for scene in scenes])) if scenes else []
        kept[kind] = [scene.keep_rows(scene.row[np.isin(scene.prediction_class, present)]).read_pairs(benchmark.min_region)
                      for scene in scenes]
    return KeptMatches(names, benchmark, include_095, kept)


def write_matches(path: Path, kept: KeptMatches) -> None:
    """Write the file, whole or not at all."""
    arrays = dict(names=np.array(kept.names, dtype=str), benchmark=np.array(kept.benchmark.name),
                  include_095=np.array(kept.include_095))
    for kind, scenes in kept.by_kind.items():
        for what, plural in LENGTHS.items():
            first = next(name for name, per in PER.items() if per == what)
            arrays[f'{kind}.{plural}'] = _small(np.array([len(getattr(scene, first)) for scene in scenes], dtype=np.int64))
        arrays |= {f'{kind}.{name}': _small(np.concatenate([getattr(scene, name) for scene in scenes])) for name in PER}
    with atomic_write(path) as file:
        np.savez_compressed(file, **arrays)


def read_matches(path: Path) -> KeptMatches:
    """Return what `write_matches` wrote.

    Raises:
        DataError: the file is none of these, or damaged.
    """
    try:
        with np.load(path) as file:
            arrays = {name: file[name] for name in file.files}
        kinds = dict.fromkeys(name.partition('.')[0] for name in arrays if '.' in name)
        return KeptMatches(arrays['names'].tolist(), get_benchmark(str(arrays['benchmark'])), bool(arrays['include_095']),
                           {kind: _scenes(arrays, kind) for kind in kinds})
    except (OSError, ValueError, KeyError, EOFError, BadZipFile) as error:
        raise DataError(f'{path} cannot be read as matches of scenes ({error}). tools/test.py writes such files: score the '
                        'weights again.') from error


def _scenes(arrays: Mapping[str, np.ndarray], kind: str) -> list[SceneMatches]:
    """Return the scenes of one kind, their arrays taken apart."""
    ends = {what: np.cumsum(arrays[f'{kind}.{plural}'])[:-1] for what, plural in LENGTHS.items()}
    parts = {name: np.split(arrays[f'{kind}.{name}'], ends[per]) for name, per in PER.items()}
    scenes = []
    for values in zip(*parts.values(), strict=True):
        own = {name: value.astype(np.float64 if name == 'score' else np.int64)
               for name, value in zip(parts, values, strict=True)}
        scenes.append(SceneMatches(row=np.arange(len(own['score'])), **own))
    return scenes


def _small(values: np.ndarray) -> np.ndarray:
    """Return the same values in the smallest kind of number that holds them."""
    if values.dtype.kind == 'f':
        return values.astype(np.float32) if np.array_equal(values.astype(np.float32), values) else values
    ends = (np.min_scalar_type(value) for value in (values.min(initial=0), values.max(initial=0)))
    return values.astype(np.result_type(*ends))
