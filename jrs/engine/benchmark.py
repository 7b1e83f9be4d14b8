"""Time and memory of what users run: a reconstruction by stages (Tables 5 and 6), and updates of a training."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from statistics import mean, median

import torch
from mmengine.config import Config
from mmengine.optim import OptimWrapper
from torch import nn

from jrs.engine.build import build_model, training_optimizer
from jrs.engine.inference import Reconstructor, Scene
from jrs.engine.recomputation import fit_recomputation
from jrs.engine.step import training_step
from jrs.engine.usage import now, peak_memory_gb, reset_peak
from jrs.errors import ConfigError
from jrs.geometry.cloud import PointCloud, point_cloud
from jrs.io.images import LoadedPhotos
from jrs.layers.kernels import kernels_used
from jrs.models.teacher import PretrainedTeacher
from jrs.places import own_file
from jrs.structures import InstanceTable, SceneBatch

Seconds = dict[str, float]
WARM = 2                                       # updates that are not counted: the first ones make what later ones keep


def noise_photos(views: int, size: tuple[int, int]) -> LoadedPhotos:
    """Return `views` images of noise, (H, W) = `size`, in the place of photos."""
    images = torch.rand(views, 3, *size, generator=torch.Generator().manual_seed(0))
    return LoadedPhotos.of_input(images, [str(view) for view in range(views)])


def noise_batch(views: int, size: tuple[int, int], scenes: int = 1, instances: int = 8) -> SceneBatch:
    """Return noise with cameras, depth and instances, packed, as the loader of a training gives it; (H, W) = `size`."""
    generator = torch.Generator().manual_seed(0)
    shape = (scenes, views, *size)
    cameras = torch.eye(4).repeat(scenes, views, 1, 1)
    cameras[..., 0, 3] = torch.arange(views) / 10
    lens = torch.tensor([[size[1], 0, size[1] / 2], [0, size[1], size[0] / 2], [0, 0, 1.0]]).repeat(scenes, views, 1, 1)
    blocks = torch.randint(0, instances + 1, (scenes, views, 7, 7), generator=generator)
    ids = nn.functional.interpolate(blocks.float(), size=size, mode='nearest').short()
    table = InstanceTable(torch.arange(1, instances + 1), torch.zeros(instances, dtype=torch.int64))
    images = torch.randint(0, 256, (scenes, views, 3, *size), generator=generator, dtype=torch.uint8)
    batch = SceneBatch(images, ['noise'] * scenes, [[str(view) for view in range(views)]] * scenes,
                       depth_m=1 + torch.rand(shape, generator=generator), intrinsics=lens, cam_from_world=cameras,
                       instance_ids=ids, instances=[table] * scenes)
    return batch.pin_memory() if torch.cuda.is_available() else batch


@dataclass
class Pass:
    """A reconstruction and what it took.

    Attributes:
        scene: cameras, depth, instances.
        cloud: the points, each with its instance.
        seconds: of aggregator (with queries), heads, postprocess and total, as Table 5 splits them.
    """

    scene: Scene
    cloud: PointCloud
    seconds: Seconds


def timed_pass(reconstruct: Reconstructor, photos: LoadedPhotos) -> Pass:
    """Reconstruct `photos` and take the time of each stage, from images on the device to instances in space.

    Heads end with predictions that were found finite; what follows is post-processing: instances of the scene, cameras, and
    the points of all pixels but the least sure fifth, with their instances, on the CPU.

    Raises:
        NotMeasured: a model without depth or cameras.
    """
    model, marks = reconstruct.model, []

    def mark() -> None:
        marks.append(now(reconstruct.device))
    with before(model, 'reconstruct', mark), before(model.backbone, 'features', mark), before(model, 'reconstructed', mark):
        scene = reconstruct(photos)
        cloud = point_cloud(scene.reconstruction, photos.valid)
        mark()
    aggregator, heads, postprocess = (after - earlier for earlier, after in zip(marks, marks[1:], strict=False))
    return Pass(scene, cloud, dict(aggregator_s=aggregator, heads_s=heads, inference_s=aggregator + heads,
                                   postprocess_s=postprocess, total_s=marks[-1] - marks[0]))


@contextmanager
def before(owner: object, method: str, action: Callable[[], None]) -> Iterator[None]:
    """Call `action` before each call of a method of `owner` in the block."""
    run = getattr(owner, method)

    def watched(*given, **named):
        action()
        return run(*given, **named)
    setattr(owner, method, watched)
    try:
        yield
    finally:
        delattr(owner, method)


def measure_inference(reconstruct: Reconstructor, photos: LoadedPhotos, warmup: int = 1, repeats: int = 3) -> dict:
    """Return what reconstructions of `photos` take, and of what size the results are.

    Warm-up passes are not counted (Table 5: 1 and 3); in the first of them, at least one, kernels are looked at.

    Returns:
        `ours`: mean seconds per stage, and the peak of memory in GB; `kernels`: how often each kernel of attention was
        called in a pass; `instances` (None for a model without) and `points`: how many were found.
    """
    kernels = kernels_used(lambda: timed_pass(reconstruct, photos))
    for _ in range(warmup - 1):
        timed_pass(reconstruct, photos)
    reset_peak(reconstruct.device)
    runs = []
    for _ in range(repeats):
        one = timed_pass(reconstruct, photos)
        runs.append(one.seconds)
    ours = {name: mean(run[name] for run in runs) for name in runs[0]} | dict(memory_gb=peak_memory_gb(reconstruct.device))
    found = one.scene.instances
    return dict(ours=ours, kernels=kernels, instances=None if found is None else len(found.scores),
                points=len(one.cloud.points))


@dataclass
class Trained:
    """A model as a run trains it.

    Attributes:
        model: on its device, with its teacher.
        optimizer: with clipping.
        recomputation: what the backward pass computes again, in words.
        teacher: what supervises geometry, in words.
    """

    model: nn.Module
    optimizer: OptimWrapper
    recomputation: str
    teacher: str

    def update(self, batch: SceneBatch) -> None:
        """Change the weights by one batch, as a run does it."""
        training_step(self.model, [batch], self.optimizer)


def as_trained(cfg: Config, device: torch.device) -> Trained:
    """Return what a run of `cfg` in one process updates, with fresh weights; its teacher's too where its file is missing."""
    cfg = Config(dict(cfg._cfg_dict, weights=None))
    torch.manual_seed(cfg.seed)
    model = build_model(cfg).train()
    if not hasattr(model, 'backbone'):
        raise ConfigError(f'model.type: {type(model).__name__} has no backbone that reads images, and updates are measured '
                          'on noise in their place. It sees points: benchmarks/point_clouds.py measures its time.')
    words = teach(model)
    recomputation = fit_recomputation(model, cfg, device, 1)
    return Trained(model.to(device), training_optimizer(cfg, model), recomputation, words)


def teach(model: nn.Module) -> str:
    """Give a model's teacher fresh weights where its file is missing; return who teaches, in words."""
    teacher = model.teacher
    if not isinstance(teacher, PretrainedTeacher) or own_file(teacher.checkpoint).is_file():
        return 'none' if teacher is None else type(teacher).__name__
    teacher.without_file()
    return f'{type(teacher).__name__}, fresh weights: there is no {teacher.checkpoint}'


def compare_steps(models: dict[str, Trained], batch: SceneBatch, device: torch.device,
                  steps: int) -> dict[str, dict[str, float]]:
    """Return median seconds of an update of each model, and of the paired ratio to the first.

    The models take turns, so that a change of the machine's speed meets all alike. On a CPU seconds are the process's own.
    """
    seconds: dict[str, list[float]] = {name: [] for name in models}
    for step in range(steps + WARM):
        for name, trained in list(models.items())[::1 - 2 * (step % 2)]:       # who goes first changes too
            start = now(device, time.process_time)
            trained.update(batch)
            if step >= WARM:
                seconds[name].append(now(device, time.process_time) - start)
    first = seconds[next(iter(models))]
    return {name: dict(step_s=median(own), ratio=median(a / b for a, b in zip(own, first, strict=True)),
                       ratio_of_sums=sum(own) / sum(first)) for name, own in seconds.items()}


def measure_training(trained: Trained, batch: SceneBatch, device: torch.device, steps: int) -> dict[str, float]:
    """Return the mean seconds of an update after those that warm up, and peak memory in GB."""
    reset_peak(device)
    for _ in range(WARM):
        trained.update(batch)
    start = now(device)
    for _ in range(steps):
        trained.update(batch)
    return dict(step_s=(now(device) - start) / steps, memory_gb=peak_memory_gb(device))
