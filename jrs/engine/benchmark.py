"""Time and memory of the stages of a model, on the device that its inputs are on (Tables 5 and 6, alignment, training)."""

from __future__ import annotations

import resource
import time
from collections.abc import Callable
from pathlib import Path
from statistics import mean, median

import torch
from torch import nn

from jrs.layers.kernels import kernels_used
from jrs.models.segvggt import check_predictions
from jrs.structures import InstanceTable, SceneBatch

Seconds = dict[str, float]


def random_batch(views: int, size: tuple[int, int], device: torch.device, scenes: int = 1, instances: int = 8) -> SceneBatch:
    """Return noise with cameras, depth and instances: what training and inference read, without data."""
    generator = torch.Generator().manual_seed(0)
    shape = (scenes, views, *size)
    cameras = torch.eye(4).repeat(scenes, views, 1, 1)
    cameras[..., 0, 3] = torch.arange(views) / 10
    lens = torch.tensor([[size[1], 0, size[1] / 2], [0, size[1], size[0] / 2], [0, 0, 1.0]]).repeat(scenes, views, 1, 1)
    blocks = torch.randint(0, instances + 1, (scenes, views, 7, 7), generator=generator)
    ids = nn.functional.interpolate(blocks.float(), size=size, mode='nearest').long()
    table = InstanceTable(torch.arange(1, instances + 1), torch.zeros(instances, dtype=torch.int64))
    return SceneBatch(torch.rand(scenes, views, 3, *size, generator=generator), ['noise'] * scenes,
                      [[str(view) for view in range(views)]] * scenes, depth_m=1 + torch.rand(shape, generator=generator),
                      intrinsics=lens, cam_from_world=cameras, instance_ids=ids, instances=[table] * scenes).to(device)


@torch.no_grad()
def stage_seconds(model: nn.Module, batch: SceneBatch) -> Seconds:
    """Return the seconds of aggregator (with queries), heads, postprocess and total of one pass, as Table 5 splits them."""
    device = batch.images.device
    marks = [now(device)]
    handle = model.backbone.features

    def features():
        marks.append(now(device))
        return handle()
    model.backbone.features = features
    try:
        predictions = model.forward_images(batch.images)
    finally:
        del model.backbone.features
    marks.append(now(device))
    if model.postprocessor is not None:
        model.reconstructed(batch, predictions)
    marks.append(now(device))
    check_predictions(predictions, batch)                               # what is not finite takes no time to rank
    aggregator, heads, postprocess = (after - before for before, after in zip(marks, marks[1:], strict=False))
    return dict(aggregator_s=aggregator, heads_s=heads, inference_s=aggregator + heads, postprocess_s=postprocess,
                total_s=marks[-1] - marks[0])


def measure_inference(model: nn.Module, views: int, size: tuple[int, int], device: torch.device, warmup: int = 1,
                      repeats: int = 3) -> dict[str, float | dict[str, int]]:
    """Return mean seconds per stage, peak memory in GB, and how often each kernel of attention was called in a pass.

    Warm-up passes are not counted (Table 5: 1 and 3); in the first of them, at least one, kernels are looked at.
    """
    model = model.eval().to(device)
    batch = random_batch(views, size, device)
    kernels = kernels_used(lambda: stage_seconds(model, batch))
    for _ in range(warmup - 1):
        stage_seconds(model, batch)
    reset_peak(device)
    runs = [stage_seconds(model, batch) for _ in range(repeats)]
    return {name: mean(run[name] for run in runs) for name in runs[0]} | dict(
        memory_gb=peak_memory_gb(device), kernels=kernels)


def training_step(model: nn.Module, batch: SceneBatch, optimizer: torch.optim.Optimizer) -> None:
    """Run forward, backward and an update."""
    terms = model.loss(batch)
    optimizer.zero_grad()
    sum(value for name, value in terms.items() if name.startswith('loss')).backward()
    optimizer.step()


def compare_steps(models: dict[str, nn.Module], batch: SceneBatch, steps: int) -> dict[str, dict[str, float]]:
    """Return median seconds of a training step of each model, and of the paired ratio to the first.

    The models take turns, so that a change of the machine's speed meets all alike. On a CPU seconds are the process's own.
    """
    device = batch.images.device
    optimizers = {name: torch.optim.AdamW([value for value in model.parameters() if value.requires_grad], lr=1e-5)
                  for name, model in models.items()}
    seconds: dict[str, list[float]] = {name: [] for name in models}
    for step in range(steps + 2):
        for name, model in list(models.items())[::1 - 2 * (step % 2)]:         # who goes first changes too
            start = now(device, time.process_time)
            training_step(model, batch, optimizers[name])
            if step >= 2:
                seconds[name].append(now(device, time.process_time) - start)
    first = seconds[next(iter(models))]
    return {name: dict(step_s=median(own), ratio=median(a / b for a, b in zip(own, first, strict=True)),
                       ratio_of_sums=sum(own) / sum(first)) for name, own in seconds.items()}


def measure_training(model: nn.Module, batch: SceneBatch, steps: int) -> dict[str, float]:
    """Return the mean seconds of a training step after one warm-up, and peak memory in GB."""
    device = batch.images.device
    optimizer = torch.optim.AdamW([value for value in model.parameters() if value.requires_grad], lr=1e-5)
    reset_peak(device)
    training_step(model, batch, optimizer)
    start = now(device)
    for _ in range(steps):
        training_step(model, batch, optimizer)
    return dict(step_s=(now(device) - start) / steps, memory_gb=peak_memory_gb(device))


def reset_peak(device: torch.device) -> None:
    """Forget the peak so far; on a CPU where the system allows it."""
    if device.type == 'cuda':
        torch.cuda.reset_peak_memory_stats(device)
    elif Path('/proc/self/clear_refs').exists():
        Path('/proc/self/clear_refs').write_text('5')


def peak_memory_gb(device: torch.device) -> float:
    """Return the peak in GB (1e9 bytes): tensors on CUDA, the resident process elsewhere."""
    if device.type == 'cuda':
        return torch.cuda.max_memory_allocated(device) / 1e9
    return _status_gb('VmHWM')


def memory_gb(device: torch.device) -> float:
    """Return what is in use now, in GB: tensors on CUDA, the resident process elsewhere (its peak, where no system says)."""
    return torch.cuda.memory_allocated(device) / 1e9 if device.type == 'cuda' else _status_gb('VmRSS')


def _status_gb(name: str) -> float:
    status = Path('/proc/self/status')
    if not status.exists():
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e9
    value = next(line for line in status.read_text().splitlines() if line.startswith(name))
    return int(value.split()[1]) * 1024 / 1e9


def now(device: torch.device, clock: Callable[[], float] = time.perf_counter) -> float:
    """Return seconds after all that was started on `device` is done; `clock` counts on a CPU only."""
    if device.type == 'cuda':
        torch.cuda.synchronize(device)
        return time.perf_counter()
    return clock()
