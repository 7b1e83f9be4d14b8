"""Which scenes and views a training batch takes: pure functions of a seed and a number (engine.md section 5)."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from jrs.datasets.covisibility import covisibility
from jrs.datasets.scene import Frame, Scene
from jrs.errors import ConfigError, DataError
from jrs.registry import SAMPLERS

DRAWS_PER_UPDATE = 65536                 # more than any update has scenes, so that no draw number repeats
MIN_GRID = 5                             # fewer frames lie on a coarser grid by chance


@dataclass(frozen=True)
class SampleRequest:
    """What the sampler asks a data set for.

    Attributes:
        index: number of the scene in the data set.
        draw: place in the endless stream of samples; the only source of randomness besides the seed.
        num_views: V, equal for all samples of a batch.
        aspect_ratio: height over width of the input, equal for all samples of a batch.
    """

    index: int
    draw: int
    num_views: int
    aspect_ratio: float


def own_slots(rank: int, world_size: int, slots: int) -> range:
    """Return which slots of an update process `rank` of `world_size` takes, one after another.

    Raises:
        ConfigError: no such process, or the processes cannot share the slots equally.
    """
    if not 0 <= rank < world_size:
        raise ConfigError(f'rank must be in 0 .. world_size - 1, got rank {rank} of {world_size}.')
    if slots < 1 or slots % world_size:
        raise ConfigError(f'slots must be a multiple of the number of processes ({world_size}), got {slots}.')
    each = slots // world_size
    return range(rank * each, (rank + 1) * each)


@SAMPLERS.register_module()
class ViewBatchSampler:
    """Endless batches of sample requests, one per slot; update k depends on the seed and k only (vggt.md section 16).

    An update of the weights has `slots` batches of as many scenes. It draws one number of views V and one aspect ratio,
    which all its slots share, and takes as many scenes per slot as `max_images` allows: max(1, max_images // V). However
    many processes share the slots, and in however many turns, the update has the same samples. Each process gets the
    batches of its own slots, update after update.

    The paper trained on 8 A100 with "48 images in a batch": we read this as 48 per GPU, 8 slots of at most 48. Its text
    leaves open whether they are of all GPUs together (baselines.md section 9).

    Args:
        num_scenes: length of the data set.
        seed: of the experiment.
        max_images: images per slot (the paper: 48).
        views: smallest and largest V, both included (the paper: 2 and 24).
        aspect_ratio: bounds of height over width, rounded to two decimals (the paper: 0.33 to 1).
        max_scenes: further limit of scenes per slot; None = no limit.
        mixture: number of scenes and share of each of several data sets that lie one after another (`MixedDataset`); an
            update takes its scenes from them in these shares, up to one scene, and in the long run exactly. None = one set.
        slots: batches per update, over all processes.
        rank: of this process.
        world_size: number of processes; it divides `slots`.
    """

    def __init__(self, num_scenes: int, seed: int, max_images: int = 48, views: tuple[int, int] = (2, 24),
                 aspect_ratio: tuple[float, float] = (0.33, 1.0), max_scenes: int | None = None, slots: int = 1,
                 rank: int = 0, world_size: int = 1,
                 mixture: Sequence[tuple[int, float]] | None = None) -> None:
        _check_range('views', views, 1)
        _check_range('aspect_ratio', aspect_ratio, 0.01)
        if num_scenes < 1 or max_images < 1 or (max_scenes is not None and max_scenes < 1):
            raise ConfigError(f'ViewBatchSampler needs num_scenes, max_images and max_scenes of at least 1, got '
                              f'{num_scenes}, {max_images} and {max_scenes}.')
        self.num_scenes = num_scenes
        self.seed = seed
        self.max_images = max_images
        self.views = tuple(views)
        self.aspect_ratio = tuple(aspect_ratio)
        self.max_scenes = max_scenes
        self.mixture = mixture
        self.slots = slots
        self.own_slots = own_slots(rank, world_size, slots)
        self._position = 0

    def set_position(self, iteration: int) -> None:
        """Start the next iteration over this sampler at update `iteration`, at no cost."""
        self._position = iteration

    def __iter__(self) -> Iterator[list[SampleRequest]]:
        position = self._position
        while True:
            for slot in self.own_slots:
                yield self.batch(position, slot)
            position += 1

    def batch(self, update: int, slot: int) -> list[SampleRequest]:
        """Return the scenes of one slot of an update."""
        every = self.update(update)
        count = len(every) // self.slots
        return every[slot * count:(slot + 1) * count]

    def update(self, update: int) -> list[SampleRequest]:
        """Return the scenes of all slots of an update, one slot after another."""
        # A spawn key keeps this stream apart from the samples' own, default_rng([seed, draw]).
        rng = np.random.default_rng(np.random.SeedSequence(self.seed, spawn_key=(update,)))
        num_views = int(rng.integers(self.views[0], self.views[1] + 1))
        ratio = round(float(rng.uniform(*self.aspect_ratio)), 2)
        count = self._scenes_per_slot(num_views)
        scenes = self._draw_scenes(count * self.slots, rng)
        return [SampleRequest(int(scenes[place]), update * DRAWS_PER_UPDATE + place, num_views, ratio)
                for place in range(count * self.slots)]

    def drawn(self, first: int, last: int) -> np.ndarray:
        """Return how many samples, and how many views of them, each set of the mixture gave to updates first .. last - 1.

        (sets, 2) int64; of one set without a mixture.
        """
        sizes = [self.num_scenes] if self.mixture is None else [count for count, _ in self.mixture]
        counts = np.zeros((len(sizes), 2), np.int64)
        for update in range(first, last):
            requests = self.update(update)
            owner = np.searchsorted(np.cumsum(sizes), [request.index for request in requests], side='right')
            np.add.at(counts, owner, np.stack([np.ones_like(owner), [request.num_views for request in requests]], axis=1))
        return counts

    def _scenes_per_slot(self, num_views: int) -> int:
        wanted = max(1, self.max_images // num_views)
        if self.max_scenes is not None:
            wanted = min(wanted, self.max_scenes)
        return max(1, min(wanted, self.num_scenes // self.slots))

    def _draw_scenes(self, count: int, rng: np.random.Generator) -> np.ndarray:
        """Return `count` scenes, all different unless there are more slots than scenes, or too few in a set."""
        if self.mixture is not None:
            return self._draw_mixed(count, rng)
        order = rng.permutation(self.num_scenes)
        return np.resize(order, count)                                    # repeats the order only where it is too short

    def _draw_mixed(self, count: int, rng: np.random.Generator) -> np.ndarray:
        """Return `count` scenes of the sets in their shares, in random order.

        Systematic sampling: one random offset, so that a set gets the whole number of scenes below or above its due.
        """
        bounds = np.cumsum([share for _, share in self.mixture])
        bounds[-1] = 1.0                                                  # not what rounding leaves of it
        taken = np.diff(np.floor(count * np.concatenate([[0.0], bounds]) + rng.uniform()).astype(np.int64))      # (sets,)
        scenes, start = [], 0
        for (size, _), wanted in zip(self.mixture, taken, strict=True):
            scenes.append(start + np.resize(rng.permutation(size), wanted))
            start += size
        return rng.permutation(np.concatenate(scenes))


@SAMPLERS.register_module()
class SpacedViews:
    """Chooses the views of a training sample at varying intervals along the recording (`choose_views`).

    Bounds count frames of the recording, and are rounded inwards to multiples of the stride n of the frames there are
    (every n-th of the recording): a scene prepared with ``--every 5`` and one with ``--every 10`` give the same intervals.
    Bounds below the stride are refused. Where a frame was left out (no pose), the nearest one that is not taken stands in.

    Args:
        spacing: bounds of the interval between neighbours, in frames of the recording.
    """

    def __init__(self, spacing: tuple[int, int] = (10, 100)) -> None:
        _check_range('spacing', spacing, 1)
        self.spacing = tuple(spacing)

    def check(self, scene: Scene, frames: list[Frame]) -> None:
        """Raise a DataError where the frames are too far apart for the spacing."""
        self._in_strides(scene, frame_stride(scene, frames))

    def choose(self, scene: Scene, frames: list[Frame], num_views: int, rng: np.random.Generator) -> np.ndarray:
        """Return (V,) int64 places in `frames`, in random order."""
        numbers, stride = np.array([frame.index for frame in frames]), frame_stride(scene, frames)
        spacing = self._in_strides(scene, stride)
        slots = (numbers - numbers[0]) // stride                                    # (F,), gaps where frames were left out
        if len(frames) < num_views:
            return choose_views(len(frames), num_views, spacing, rng)
        return nearest_places(slots, choose_views(int(slots[-1]) + 1, num_views, spacing, rng))

    def _in_strides(self, scene: Scene, stride: int) -> tuple[int, int]:
        """Return the bounds in steps of `stride` frames."""
        low, high = -(-self.spacing[0] // stride), self.spacing[1] // stride
        if self.spacing[0] < stride or high < low:
            fitting = (low * stride, max(low, high) * stride)
            raise DataError(f'{scene.path}: view_spacing={self.spacing} counts frames of the recording, and the scene has '
                            f'every {stride}th of them: such intervals do not exist. Prepare it again with an --every of at '
                            f'most {self.spacing[0]}, or set train_dataset.view_spacing={fitting}.')
        return low, high


@SAMPLERS.register_module()
class CovisibleViews:
    """Chooses the views of a training sample by what they see in common (`choose_covisible`), whenever they were taken.

    Frame numbers and intervals do not matter. Needs scenes with depth and cameras; what views share is measured once per
    scene and kept there (`covisibility`).

    Args:
        share: bounds of the share of a view's points that one of the views before it sees; ours.
    """

    def __init__(self, share: tuple[float, float] = (0.1, 0.8)) -> None:
        _check_range('share', share, 0.0)
        if share[1] > 1:
            raise ConfigError(f'CovisibleViews: share must be (low, high) of at most 1, got {tuple(share)}.')
        self.share = tuple(share)

    def choose(self, scene: Scene, frames: list[Frame], num_views: int, rng: np.random.Generator) -> np.ndarray:
        """Return (V,) int64 places in `frames`, the reference view first."""
        place = {frame.name: number for number, frame in enumerate(scene.frames)}
        rows = [place[frame.name] for frame in frames]
        return choose_covisible(covisibility(scene)[np.ix_(rows, rows)], num_views, self.share, rng)


def frame_stride(scene: Scene, frames: list[Frame]) -> int:
    """Return n where `frames` are every n-th of the recording, but for those that were left out.

    The frames themselves say it, from `MIN_GRID` of them on (frames exported by others may be rarer than what they were
    prepared with); of fewer, how the scene was prepared.
    """
    grid = math.gcd(*np.diff([frame.index for frame in frames]).tolist())
    return grid if len(frames) >= MIN_GRID else math.gcd(grid, scene.every)


def nearest_places(slots: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """Return the places in `slots` (F,), rising, of the values nearest to `wanted` (V,), all different; V <= F.

    Of two as near the earlier is taken; one that an earlier wish took is left to it.
    """
    order = np.argsort(wanted, kind='stable')
    after = np.searchsorted(slots, wanted[order]).clip(1, max(1, len(slots) - 1))
    before, after = after - 1, np.minimum(after, len(slots) - 1)
    places = np.where(wanted[order] - slots[before] <= slots[after] - wanted[order], before, after)     # (V,) not falling
    rank = np.arange(len(places))
    places = np.minimum(np.maximum.accumulate(places - rank) + rank, len(slots) - len(places) + rank)   # rising, inside
    return places[np.argsort(order, kind='stable')].astype(np.int64)


def choose_views(num_frames: int, num_views: int, spacing: tuple[int, int], rng: np.random.Generator) -> np.ndarray:
    """Choose views at varying intervals along a recording; the first of them, the reference, is a random one.

    A sample draws its largest interval between the bounds of `spacing`, then each step between the lower bound and
    that. A short recording lowers both bounds; frames repeat only when it has fewer than `num_views`.

    Args:
        num_frames: frames to choose from, in order of time and evenly spaced.
        num_views: V.
        spacing: bounds of the step between neighbours, in frames of the list.
        rng: the sample's own generator.

    Returns:
        (V,) int64 places in the list, in random order.
    """
    _check_range('spacing', spacing, 1)
    if num_frames < num_views:
        extra = rng.integers(0, num_frames, num_views - num_frames)
        return rng.permutation(np.concatenate([np.arange(num_frames), extra]))
    longest = (num_frames - 1) // max(1, num_views - 1)
    low, high = (max(1, min(bound, longest)) for bound in spacing)
    top = int(rng.integers(low, high + 1))
    steps = rng.integers(low, top + 1, num_views - 1)
    start = int(rng.integers(0, num_frames - int(steps.sum())))
    return rng.permutation(start + np.concatenate([[0], np.cumsum(steps)]).astype(np.int64))


def choose_covisible(overlap: np.ndarray, num_views: int, share: tuple[float, float],
                     rng: np.random.Generator) -> np.ndarray:
    """Choose a random view, then views of which a share within `share` is seen by one that is chosen already.

    Where none is left within the bounds, the one nearest to them is taken; frames repeat only when there are fewer than
    `num_views`.

    Args:
        overlap: (F, F), the share of the points of view i that view j sees.
        num_views: V.
        share: bounds, 0..1.
        rng: the sample's own generator.

    Returns:
        (V,) int64 places, the reference first.
    """
    num_frames = len(overlap)
    chosen = [int(rng.integers(num_frames))]
    while len(chosen) < min(num_views, num_frames):
        linked = overlap[:, chosen].max(axis=1)                                     # (F,)
        outside = np.maximum(share[0] - linked, linked - share[1]).clip(min=0)
        outside[chosen] = np.inf
        chosen.append(int(rng.choice(np.flatnonzero(outside == outside.min()))))
    extra = rng.integers(0, num_frames, num_views - len(chosen))
    return np.concatenate([chosen, extra]).astype(np.int64)


def spread_views(num_frames: int, max_views: int | None) -> np.ndarray:
    """Return at most `max_views` places spread evenly over 0 .. num_frames - 1, first and last included."""
    if max_views is None or num_frames <= max_views:
        return np.arange(num_frames)
    return np.round(np.linspace(0, num_frames - 1, max_views)).astype(np.int64)


def window_of_views(numbers: np.ndarray, max_views: int, step: int) -> np.ndarray:
    """Return places of `max_views` frames, `step` frames of the recording apart, around the middle of the recording.

    Args:
        numbers: (F,) rising, of the frames there are, in the recording.
        max_views: V.
        step: between two views; where a frame is missing the nearest one stands for it.

    Returns:
        (V,) int64 places in `numbers`.

    Raises:
        ValueError: the recording is shorter than the window.
    """
    first, last, length = int(numbers[0]), int(numbers[-1]), step * (max_views - 1)
    if last - first < length or len(numbers) < max_views:
        raise ValueError(f'{max_views} views {step} frames apart need {length + 1} frames of a recording, and this one has '
                         f'{len(numbers)} between the numbers {first} and {last}')
    start = first + (last - first - length) // 2
    start = int(numbers[np.abs(numbers - start).argmin()])                  # on the grid of the frames that there are
    return nearest_places(numbers, start + step * np.arange(max_views))


def _check_range(name: str, bounds: tuple, least: float) -> None:
    if len(bounds) != 2 or not least <= bounds[0] <= bounds[1]:
        raise ConfigError(f'{name} must be (low, high) with {least} <= low <= high, got {tuple(bounds)}.')
