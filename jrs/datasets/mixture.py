"""Several data sets in one training: shares of the samples, and a label space of its own for each."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import replace

import numpy as np
import torch
from torch.utils.data import Dataset

from jrs.datasets.sampling import SampleRequest
from jrs.errors import ConfigError, did_you_mean
from jrs.registry import DATASETS, build
from jrs.structures import MAPS, UNNAMED, InstanceTable, SceneBatch


@DATASETS.register_module()
class MixedDataset(Dataset):
    """Scenes of several data sets; an item is a `SceneBatch` of one scene. For training.

    The classes are the different names of all sets, in the order of the sets: one that two sets have is one class. A scene
    keeps the label space of its set: its batch says which of the classes its labels could be (`SceneBatch.classes`), and
    all others say nothing in its costs and losses. So a sofa of a set that calls it so is no wrong `couch` of another. A
    head whose classes are words is the common space of the sets.

    The sampler draws the sets in the shares of `weights` (`ViewBatchSampler.mixture`), whatever their numbers of scenes; a
    slot may hold scenes of several.

    Args:
        sets: name -> a data set, or what of it is not `common`; its folder is `name` unless either says another. None turns
            one off.
        weights: name -> a number above 0: its share is this over the sum.
        common: what all sets share unless they say otherwise.
        width: of the network input, of all sets: the samples of a batch have one size.
        patch_size, data_root, seed, maps: handed to each set where it does not say its own.

    Attributes:
        mixture: number of scenes and share of each set, in order.

    Raises:
        ConfigError: no set; a weight without a set, or a set without a weight above 0; a set that does not say the names of
            its classes.
    """

    mode = 'train'

    def __init__(self, sets: Mapping[str, Mapping | None], weights: Mapping[str, float], width: int,
                 common: Mapping | None = None, patch_size: int = 14, data_root: str = 'data', seed: int = 0,
                 maps: Collection[str] = MAPS) -> None:
        sets = {name: one for name, one in sets.items() if one is not None}
        self.shares = _shares(sets, weights)
        offers = dict(width=width, patch_size=patch_size, data_root=data_root, seed=seed, maps=maps)
        self.sets = {name: build(DATASETS, {**(common or {}), **one}, f'train_dataset.sets.{name}', folder=name, **offers)
                     for name, one in sets.items()}
        names = {name: _class_names(name, one) for name, one in self.sets.items()}
        self.class_names = tuple(dict.fromkeys(label for own in names.values() for label in own))
        place = {label: number for number, label in enumerate(self.class_names)}
        self.indices = {name: torch.tensor([place[label] for label in own]) for name, own in names.items()}
        self.starts = np.cumsum([0, *map(len, self.sets.values())])
        self.width, self.patch_size = width, patch_size

    @property
    def mixture(self) -> tuple[tuple[int, float], ...]:
        """Number of scenes and share of each set, in order."""
        return tuple((len(self.sets[name]), share) for name, share in self.shares.items())

    @property
    def metainfo(self) -> dict:
        """What the sets say of themselves: names of all classes, benchmarks, scene names."""
        told = [one.metainfo for one in self.sets.values()]
        return {'benchmark': ' + '.join(dict.fromkeys(one['benchmark'] for one in told)), 'classes': self.class_names,
                'scene_names': [name for one in told for name in one['scene_names']]}

    def in_words(self) -> list[str]:
        """Return what each set is, for the first lines of a run."""
        return [f'{name} {self.shares[name]:.0%} of the samples, {len(one)} scenes, {len(self.indices[name])} of '
                f'{len(self.class_names)} classes' for name, one in self.sets.items()]

    def left_aside(self) -> list[str]:
        """Return what of the sets is not read."""
        return [f'{name}: {words}' for name, one in self.sets.items() for words in getattr(one, 'left_aside', list)()]

    def __len__(self) -> int:
        return int(self.starts[-1])

    def __getitem__(self, request: SampleRequest) -> SceneBatch:
        """Return a batch of one scene, with labels among the classes of all sets."""
        number = int(np.searchsorted(self.starts, request.index, side='right')) - 1
        name = list(self.sets)[number]
        batch = self.sets[name][replace(request, index=request.index - int(self.starts[number]))]
        known = torch.zeros(1, len(self.class_names), dtype=torch.bool)
        known[:, self.indices[name]] = True
        tables = None if batch.instances is None else [_renamed(table, self.indices[name]) for table in batch.instances]
        return replace(batch, instances=tables, classes=known)


def _shares(sets: Mapping[str, Mapping], weights: Mapping[str, float]) -> dict[str, float]:
    """Return name -> share of the samples, adding up to 1."""
    if not sets:
        raise ConfigError('MixedDataset.sets names no data set: write dict(NAME=dict(type=...), ...).')
    for name in {**sets, **weights}:
        value = weights.get(name)
        if name not in sets and value is not None:
            raise ConfigError(f'MixedDataset.weights.{name}: there is no set of that name.{did_you_mean(name, sets)}')
        if name in sets and (isinstance(value, bool) or not isinstance(value, (int, float)) or not value > 0):
            raise ConfigError(f'MixedDataset.weights.{name} must be a number above 0, the share of the set {name!r}, got '
                              f'{value!r}. To leave a set out set sets.{name}=None and its weight, too.')
    total = sum(weights[name] for name in sets)
    return {name: weights[name] / total for name in sets}


def _class_names(name: str, dataset: Dataset) -> tuple[str, ...]:
    names = getattr(dataset, 'metainfo', {}).get('classes')
    if names is None:
        raise ConfigError(f'MixedDataset.sets.{name}: {type(dataset).__name__} does not say the names of its classes '
                          '(metainfo), by which sets are joined.')
    return tuple(names)


def _renamed(table: InstanceTable, index: torch.Tensor) -> InstanceTable:
    labels = torch.where(table.labels == UNNAMED, UNNAMED, index[table.labels.clamp_min(0)])
    return InstanceTable(table.ids, labels)
