"""What a training run needs, said before it starts: memory, shared memory, disk, data, hours; and how each is known."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import PurePath

import torch
from mmengine.config import Config
from torch import nn

from jrs.benchmarks import PREPARED_EVERY
from jrs.datasets.transforms import height_for
from jrs.engine.checkpoint import KEPT
from jrs.engine.disk import checkpoint_bytes, weights_bytes
from jrs.engine.memory import GB, RUNTIME, MemoryEstimate, free_memory, parameter_bytes, training_memory
from jrs.engine.update import sampler_setting, update_of
from jrs.io.lean_build import build_on_meta
from jrs.registry import MODELS, build
from jrs.schema import sets_of
from jrs.structures import maps_read

PIXEL_BYTES = dict(images=3, instance_ids=2, depth_m=4)                # of a batch in shared memory (benchmarks/batches.py)
BATCHES_PER_WORKER = 3                         # that are in shared memory: one that is used, two that are ready
WORKER_BYTES = 0.3e9                           # of a worker's own: 0.22 to 0.32 measured by the same
CARD = torch.device('cuda')                    # what a run at the scale of the paper is computed for


@dataclass(frozen=True)
class Slot:
    """The images of one slot of an update: how many, and their (H, W)."""

    images: int
    size: tuple[int, int]

    @property
    def pixels(self) -> int:
        """Of all of them."""
        return self.images * self.size[0] * self.size[1]

    def __str__(self) -> str:
        return f'{self.images} images of {self.size[1]} x {self.size[0]}'


@dataclass(frozen=True)
class Recordings:
    """Raw data of a data set.

    Attributes:
        scans, frames: how many.
        raw_bytes: of all of them.
        source: where these numbers are from.
    """

    scans: int
    frames: int
    raw_bytes: float
    source: str


@dataclass(frozen=True)
class Preparation:
    """What `benchmarks/preparation.py` measured; numbers of the last record in benchmarks/results/preparation_cpu.json."""

    seconds_per_frame: float
    prepared_over_raw: float
    mesh_bytes: float


# First folder of a data set -> what is known of it. The mean of 1 650 frames a scan makes 2.66 million of 1613.
RECORDINGS = dict(scannet=Recordings(1613, 2_660_000, 1.2e12, '1613 scans, 1650 frames each in the mean; 1.2 TB is what is '
                                     'commonly said of all of it'))
PREPARATION = Preparation(seconds_per_frame=0.64, prepared_over_raw=1.13, mesh_bytes=7.6e6)


@dataclass(frozen=True)
class Need:
    """One line: what, how much, and how that is known."""

    what: str
    amount: str
    known: str


def largest_slot(cfg: Config, patch_size: int | None) -> Slot | None:
    """Return the largest slot that the sampler of `cfg` can draw; None where sampler or data set do not say so."""
    batches, width = cfg['batches'], cfg.train_dataset.get('width')
    views, most, ratio = (sampler_setting(batches, name) for name in ('views', 'max_images', 'aspect_ratio'))
    if None in (views, most, ratio, width, patch_size) or views[0] > views[1]:             # which the sampler refuses
        return None
    scenes = sampler_setting(batches, 'max_scenes') or math.inf
    images = max(count * min(max(1, most // count), scenes) for count in range(views[0], views[1] + 1))
    return Slot(int(images), (height_for(ratio[1], width, patch_size), width))


def slot_memory(model: nn.Module, teacher: float, cfg: Config, slot: Slot | None, device: torch.device,
                processes: int) -> MemoryEstimate | None:
    """Return the estimate of training `model` with `slot`, beside `teacher` bytes of a teacher; None where there is none."""
    if slot is None or not hasattr(model, 'backbone'):
        return None
    return training_memory(model, slot.images, slot.size, device, teacher, processes, cfg.train.sharding is not None)


def teacher_bytes(model: nn.Module) -> int:
    """Return the bytes of the weights of a model's teacher, 0 for one that has none or does not say."""
    count = getattr(getattr(model, 'teacher', None), 'weight_bytes', None)
    return 0 if count is None else count()


def memory_words(model: nn.Module, cfg: Config, device: torch.device, processes: int) -> str:
    """Return how much memory the largest slot will take in each process, and what to do where that is not there.

    Args:
        model: as it was built, on the CPU.
        cfg: of the run.
        device: that it will train on.
        processes: that train together; those of a CPU are taken to share one machine.
    """
    slot = largest_slot(cfg, getattr(getattr(model, 'backbone', None), 'patch_size', None))
    estimate = slot_memory(model, teacher_bytes(model), cfg, slot, device, processes)
    if estimate is None:
        return 'memory of training: no estimate for this sampler, data set or model'
    words = f'memory of training: at most about {estimate.total / GB:.1f} GB in each process ({slot}; an estimate)'
    if (free := free_memory(device)) is not None:
        free = (free + parameter_bytes(model)) / processes if device.type == 'cpu' else free
        words += f', {free / GB:.1f} GB can be had'
        if estimate.total > free:
            words += (f': too much, about {estimate.views_within(free)} images would fit. Fewer (batches.max_images, '
                      'batches.views) make another update')
    return words


def needs_of(cfg: Config, processes: int, step_seconds: float | None = None) -> list[Need]:
    """Return what training `cfg` needs; nothing is loaded, and no data need be there.

    Args:
        cfg: a checked experiment.
        processes: that train together on one machine, one card each.
        step_seconds: measured, of one slot; None = not measured.

    Raises:
        ConfigError: the processes cannot share an update equally.
    """
    hours = list(_hours(cfg, processes, step_seconds))
    return [*model_needs(outline(cfg), cfg, processes), *_data(cfg), *hours]


def outline(cfg: Config) -> nn.Module:
    """Return the model of a config, its parameters without values."""
    return build_on_meta(lambda: build(MODELS, cfg.model, 'model'))[0]


def model_needs(model: nn.Module, cfg: Config, processes: int) -> list[Need]:
    """Return what training `model` as `cfg` says needs on the machine."""
    slot = largest_slot(cfg, getattr(getattr(model, 'backbone', None), 'patch_size', None))
    return [*_device(model, cfg, slot, processes), *_host(model, cfg, slot, processes), *_disk(model)]


def _device(model: nn.Module, cfg: Config, slot: Slot | None, processes: int) -> Iterator[Need]:
    teacher = teacher_bytes(model)
    estimate = slot_memory(model, teacher, cfg, slot, CARD, processes)
    if estimate is None:
        yield Need('memory of a card', 'not known', 'no estimate for this sampler, data set or model')
        return
    yield Need('images that a card holds, at most', str(slot), '`batches`, `train_dataset.width`; the largest aspect ratio')
    trained = 4 * sum(value.numel() for value in model.parameters() if value.requires_grad)
    parts = dict(weights=parameter_bytes(model), gradients=trained, moments=2 * trained, teacher=teacher)
    if cfg.train.sharding is not None:
        parts = {'its part of weights, gradients, moments': (sum(parts.values()) - teacher) / processes, 'teacher': teacher}
    parts['images'] = estimate.total - sum(parts.values())
    text = ', '.join(f'{name} {value / GB:.1f}' for name, value in parts.items())
    yield Need('memory of a card', _size(estimate.total), f'estimated (`jrs/engine/memory.py`), in GB: {text}')


def _host(model: nn.Module, cfg: Config, slot: Slot | None, processes: int) -> Iterator[Need]:
    workers, maps = cfg.train.workers, maps_read([model])
    checkpoint = checkpoint_bytes(model)
    own = processes * RUNTIME['cpu'] + processes * workers * WORKER_BYTES
    largest = max((4 * value.numel() for value in model.parameters()), default=0)
    saved = checkpoint if cfg.train.sharding is not None else largest
    yield Need('memory of the host, while a checkpoint is written', _size(own + saved),
               ('estimated: process 0 puts the parts of all together; ' if cfg.train.sharding is not None else
                'estimated: tensors go to the disk one by one; ')
               + f'{WORKER_BYTES / GB:.1f} GB for each of {processes * workers} workers')
    yield Need('memory of the host, at `--resume`', _size(own + checkpoint),
               'estimated: all processes map the file, which is in memory once, and goes when the memory is needed')
    if slot is not None:
        batch = slot.pixels * sum(PIXEL_BYTES[name] for name in ('images', *sorted(maps)))
        yield Need('`/dev/shm`', _size(processes * workers * BATCHES_PER_WORKER * batch),
                   f'computed, and measured for one worker (`benchmarks/batches.py`): {processes} x {workers} workers x '
                   f'{BATCHES_PER_WORKER} batches of {_size(batch)}')


def _disk(model: nn.Module) -> Iterator[Need]:
    checkpoint, weights = checkpoint_bytes(model), weights_bytes(model)
    yield Need('a checkpoint', _size(checkpoint), 'counted: weights, and two moments of what is trained')
    yield Need('disk for the run', _size((KEPT + 1) * checkpoint + weights),
               f'counted: {KEPT} checkpoints stay, one more is written before the oldest goes, and the weights')


def _data(cfg: Config) -> Iterator[Need]:
    names = dict.fromkeys(one.get('folder', '') for part in ('train_dataset', 'val_dataset', 'test_dataset')
                          for one in sets_of(cfg[part]))
    for name in names:
        known = RECORDINGS.get(PurePath(name).parts[0] if name else '')
        if known is None:
            yield Need(f'data `{name}`', 'not known', 'nothing is noted of this data set; built-in rooms: '
                       '`docs/rooms_datasheet.md`')
            continue
        frames = known.frames / PREPARED_EVERY
        prepared = known.raw_bytes / PREPARED_EVERY * PREPARATION.prepared_over_raw + known.scans * PREPARATION.mesh_bytes
        seconds = PREPARATION.seconds_per_frame
        yield Need(f'raw data `{name}`', _size(known.raw_bytes), f'not measured: {known.source}')
        yield Need(f'prepared data `{name}`', _size(prepared), f'estimated: every {PREPARED_EVERY}th frame, '
                   f'{PREPARATION.prepared_over_raw} x its raw bytes (of a generated scan: `benchmarks/preparation.py`)')
        yield Need(f'preparing `{name}`', f'{frames * seconds / 3600:.0f} CPU-hours', f'estimated: {frames:,.0f} frames x '
                   f'{seconds} s (measured as above); `--jobs` share them')


def _hours(cfg: Config, processes: int, step_seconds: float | None) -> Iterator[Need]:
    turns = update_of(cfg).accumulation(processes, cfg.train.accumulate)
    steps = cfg.train.iterations * turns
    count = f'{cfg.train.iterations} updates x {turns} {"slot" if turns == 1 else "slots"} of each process'
    if step_seconds is None:
        yield Need('hours of training', f'{steps / 3600:.3g} x the seconds of a slot', f'{count}; no card has measured the '
                   'seconds: `tools/benchmark.py --train`, then `--step-seconds`')
    else:
        yield Need('hours of training', f'{steps * step_seconds / 3600:.3g}', f'{count} x {step_seconds:g} s as given; '
                   'validation and saving come on top')


def needs_page(words: str, needs: list[Need]) -> str:
    """Return the needs as Markdown; `words` say of which run they are."""
    lines = [f'| {need.what} | {need.amount} | {need.known} |' for need in needs]
    return '\n'.join([words, '', '| what | how much | how that is known |', '| --- | --- | --- |', *lines, ''])


def _size(count: float) -> str:
    for unit, size in (('TB', 1e12), ('GB', 1e9), ('MB', 1e6)):
        if count >= size:
            return f'{count / size:.1f} {unit}'
    return f'{count / 1e3:.1f} kB'
