"""The scenes of a split, whatever data set makes of them: who they are, and their labels in a benchmark."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from jrs.benchmarks import Benchmark, get_benchmark
from jrs.datasets.checks import check_scenes
from jrs.datasets.scene import MAX_ID, Mesh, Scene, SceneFolder
from jrs.datasets.splits import split_names
from jrs.errors import ConfigError, DataError

LOOKED_AT = 50                                  # scenes whose objects are looked through for the first lines of a run


class ScenesOfSplit:
    """Scenes of a split and their labels; base of data sets, which say what an item is.

    Args:
        folder: of the data set, under `data_root`, with split lists and scene folders.
        split: name of a list there, `<split>.txt`; '<split>_random10' = the ten scenes of Tables 2 and 9 (`split_names`).
        benchmark: name of a `Benchmark`; its instance classes are the targets, all else is background.
        data_root: where data sets lie.
        seed: of the experiment.
        mode: 'train' or 'test'.
        limit_scenes: use the first scenes of the list only.
        stuff: names that the benchmark ignores for instances, such as wall and floor, which are classes here, too: after its
            own, K .. K + S - 1, and all objects of one in a scene are one.

    Raises:
        DataError: the data set or one of its scenes is not there; says how to get it.
    """

    def __init__(self, folder: str, split: str, benchmark: str, data_root: str = 'data', seed: int = 0, mode: str = 'train',
                 limit_scenes: int | None = None, stuff: Sequence[str] = ()) -> None:
        if mode not in ('train', 'test'):
            raise ConfigError(f"{type(self).__name__}: mode must be 'train' or 'test', got {mode!r}.")
        self.root = Path(data_root) / folder
        self.split = split
        self.benchmark: Benchmark = get_benchmark(benchmark)
        self.stuff = (stuff,) if isinstance(stuff, str) else tuple(stuff)
        stuff_ids = self.benchmark.stuff_ids_of(self.stuff)
        self.index_of_stuff = {class_id: self.benchmark.num_classes + place for place, class_id in enumerate(stuff_ids)}
        self.seed = seed
        self.mode = mode
        scenes = self.open_scenes()
        check_scenes(scenes, f'{self.root}, split {split!r},')
        self.scenes, self.num_listed = scenes[:limit_scenes], len(scenes)

    def open_scenes(self) -> list[Scene]:
        """Return the scenes of `split` below `root`, always in the same order; here scene folders, named by a list.

        A data set of another layout overrides this and returns scenes of its own (a subclass of `jrs.datasets.scene.Scene`);
        all else stays. It may read `root`, `split`, `mode` and `benchmark`, and call `listed_names`.

        Raises:
            DataError: the data are not there; says how to get them.
        """
        return [SceneFolder(self.root / name) for name in self._scene_names()]

    def listed_names(self) -> list[str]:
        """Return the names in `<split>.txt` of `root`, one per line; without it '<base>_random10' as in `split_names`.

        Raises:
            DataError: no such list, or an empty one; names the lists there are.
        """
        names = split_names(self.root, self.split)
        if not names:
            fault = 'No split list' if names is None else 'No scene in the list'
            lists = ', '.join(sorted(other.stem for other in self.root.glob('*.txt')))
            there = f'The splits there are: {lists}.' if lists else 'There are no scenes yet.'
            raise DataError(f'{fault} {self.root / self.split}.txt. {there}{self._advice()}')
        return names

    def classes_without_object(self) -> list[str]:
        """Return the classes of a benchmark of one's own that no object of the first `LOOKED_AT` scenes has."""
        if not self.benchmark.id_of_label:
            return []                                                  # a published benchmark: many of its classes are rare
        found = {index for scene in self.scenes[:LOOKED_AT] for index in self.class_index(scene).values()}
        return [name for index, name in enumerate(self.benchmark.class_names) if index not in found]

    def left_aside(self) -> list[str]:
        """Return what of the split is not read, for the first lines of a run and its record."""
        if len(self.scenes) == self.num_listed:
            return []
        return [f'the first {len(self.scenes)} of {self.num_listed} scenes of the list (limit_scenes)']

    @property
    def metainfo(self) -> dict:
        """What evaluators and visualizers need to know: benchmark, names of its classes, split, scene names."""
        return {'benchmark': self.benchmark.name, 'classes': (*self.benchmark.class_names, *self.stuff), 'stuff': self.stuff,
                'split': self.split, 'scene_names': [scene.name for scene in self.scenes]}

    def __len__(self) -> int:
        return len(self.scenes)

    def check_labels(self) -> None:
        """Raise a ConfigError where all scenes are annotated and none has an object of the benchmark's classes."""
        if any(scene.instances is None or self.class_index(scene) for scene in self.scenes):   # ends at the first scene
            return
        name, names = self.benchmark.name, self.benchmark.class_names
        labels = sorted({str(item.label) for scene in self.scenes for item in scene.instances})
        raise ConfigError(
            f'{self.root}, split {self.split!r}: no object is of a class of the benchmark {name!r} ({_some(names)}). The '
            f'labels of its objects: {_some(labels)}. A label counts where it is spelled as a class of a benchmark of your '
            f'own, or in that one\'s labels=dict(label=\'class name\'); for a published benchmark let each SceneInstance '
            f'say its class id, classes={{{name!r}: ID}}.')

    def class_index(self, scene: Scene) -> dict[int, int]:
        """Return instance id -> class index 0 .. K-1, instances of the benchmark's instance classes only, and of stuff."""
        index_of_id = self.benchmark.class_index_of_id | self.index_of_stuff
        return {number: index_of_id[class_id] for number, class_id in self.class_ids(scene).items()
                if class_id in index_of_id}

    def same_stuff(self, scene: Scene) -> dict[int, int]:
        """Return instance id -> the smallest id of the same stuff in the scene, where these differ."""
        first: dict[int, int] = {}
        of_stuff = {number: index for number, index in sorted(self.class_index(scene).items())
                    if index >= self.benchmark.num_classes}
        return {number: one for number, index in of_stuff.items() if (one := first.setdefault(index, number)) != number}

    def vertex_truth(self, scene: Scene) -> tuple[np.ndarray, np.ndarray | None]:
        """Return what each vertex of the scene's mesh is (N,): class id * 1000 + instance number; and what is left out.

        That is the vertices (E,) which do not exist for scoring, None where all do.

        Raises:
            DataError: the scene has no mesh.
        """
        mesh = scene.mesh()
        if mesh is None:
            raise DataError(f'{scene.path}: the scene has no mesh, and is scored on the depth of the views that are used: '
                            'there is no ground truth of vertices.')
        return self.vertex_ids(scene, mesh), excluded_vertices(mesh)

    def class_ids(self, scene: Scene) -> dict[int, int]:
        """Return instance id -> class id, of the benchmark's label set."""
        found = {item.id: self.benchmark.class_id(item.classes, item.label) for item in scene.instances or ()}
        return {number: class_id for number, class_id in found.items() if class_id in self.benchmark.all_ids}

    def unnamed(self, scene: Scene) -> list[int]:
        """Return the ids of instances that the benchmark has no word for: neither a class of it nor one that it ignores."""
        known = self.class_ids(scene)
        return [item.id for item in scene.instances or () if item.id not in known]

    def vertex_ids(self, scene: Scene, mesh: Mesh) -> np.ndarray:
        """Return class id * 1000 + instance number of each vertex (N,), 0 = void (data.md section 4.3)."""
        if mesh.instances is None:
            return np.zeros(len(mesh.vertices), np.int64)
        table = np.zeros(MAX_ID + 1, np.int64)
        for number, class_id in self.class_ids(scene).items():
            table[number] = class_id * 1000 + number
        return table[mesh.instances]                                                            # (N,)

    def _scene_names(self) -> list[str]:
        names = self.listed_names()
        missing = [name for name in names if not SceneFolder(self.root / name).exists()]
        if missing:
            raise DataError(f'{self.root / self.split}.txt: {len(missing)} of {len(names)} scenes are missing, first '
                            f'{missing[0]}.{self._advice()}')
        return names

    def _advice(self) -> str:
        """Return how scene folders are made; nothing for another layout."""
        return f' {how_to_get(self.root)}' if type(self).open_scenes is ScenesOfSplit.open_scenes else ''


def excluded_vertices(mesh: Mesh) -> np.ndarray | None:
    """Return the vertices (E,) that do not exist for scoring, None where all do."""
    return None if mesh.excluded is None else np.flatnonzero(mesh.excluded)


def how_to_get(root: Path) -> str:
    """Return the sentence that says how a data set is made, and what runs without it."""
    if 'rooms' in root.parts:
        return f'Generate the rooms: python tools/prepare.py rooms --preset {root.name} --out {root}'
    command = 'scannetpp --raw DIR' if 'scannetpp' in root.name else 'scannet --raw DIR'
    return (f'Prepare it from the raw scans: python tools/prepare.py {command} --out {root}. '
            'Without the data, `--profile rooms` runs the same experiment on the built-in rooms.')


def _some(names: Sequence[str]) -> str:
    return ', '.join(names[:12]) + (f' and {len(names) - 12} more' if len(names) > 12 else '') or 'none'
