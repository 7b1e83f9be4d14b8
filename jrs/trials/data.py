"""Trials of data sets, transforms and samplers."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import numpy as np

from jrs.datasets.pipeline import EachView
from jrs.datasets.sampling import SampleRequest
from jrs.datasets.scene import Camera, Frame, Scene
from jrs.structures import SceneBatch
from jrs.trials import inputs
from jrs.trials.claims import wrong_tensor

REQUEST = SampleRequest(index=0, draw=5, num_views=inputs.VIEWS, aspect_ratio=0.75)
IMAGE_SIZE, INTRINSICS = (48, 64), np.array([[60.0, 0, 31.5], [0, 60, 23.5], [0, 0, 1]])


def try_dataset(part: object) -> Iterator[str]:
    """The first scene as training asks for it and as testing does, twice each; one of the two must work."""
    if len(part) < 1:
        yield 'it has no scene'
        return
    told: dict[str, list[str]] = {}
    for use, request in (('training', REQUEST), ('testing', 0)):
        try:
            told[use] = list(_wrong_item(part, request))
        except Exception as error:                 # a data set may serve only one of the two
            told[use] = [f'{type(error).__name__}: {error}']
    if all(told.values()):
        yield from (f'in {use}: {fault}' for use, lacking in told.items() for fault in lacking)


def _wrong_item(part: object, request: SampleRequest | int) -> Iterator[str]:
    batch, again = part[request], part[request]
    if not isinstance(batch, SceneBatch):
        yield f'it gives a {type(batch).__name__}, not a SceneBatch'
        return
    views = None if isinstance(request, int) else request.num_views
    lacking = list(wrong_tensor(batch.images, 'images', (1, views, 3, None, None), '(1, V, 3, H, W)'))
    yield from lacking
    if lacking:
        return
    if not batch.images.equal(again.images):
        yield 'the same request gives other images: draw from np.random.default_rng([seed, draw]) only'
    shape, size = tuple(batch.images.shape[:2]), tuple(batch.images.shape[-2:])
    images = batch.unpacked().images
    if images.min() < 0 or images.max() > 1:
        yield f'images must be uint8, or floating in [0, 1], got {images.min().item():.3g} .. {images.max().item():.3g}'
    for name, per_view in (('depth_m', size), ('instance_ids', size), ('intrinsics', (3, 3)), ('cam_from_world', (4, 4))):
        if getattr(batch, name) is not None:
            yield from wrong_tensor(getattr(batch, name), name, (*shape, *per_view), f'(1, V, {per_view[0]}, {per_view[1]})')
    if len(batch.scene_names) != 1 or [len(names) for names in batch.view_names] != [shape[1]]:
        yield f'one scene name and {shape[1]} view names are asked for, got {batch.scene_names} and {batch.view_names}'
    if batch.instance_ids is not None and batch.instances is None:
        yield 'instance_ids without `instances`, the table of their labels'


def try_views_transform(part: object) -> Iterator[str]:
    """A photo of 48 x 64 pixels, cropped to 28 x 42, and two copies of it; twice from the same random numbers."""
    image, size = np.tile(np.arange(64, dtype=np.uint8)[None, :, None] * 3, (48, 1, 3)), (28, 42)
    first, second = (_transformed(part, image, size, np.random.default_rng(4)) for _ in range(2))
    crop, colored = first
    if crop.image(image).shape != (*size, 3) or np.shape(crop.matrix) != (3, 3):
        yield f'the crop gives {crop.image(image).shape} with a matrix {np.shape(crop.matrix)}, not {(*size, 3)} and (3, 3)'
    for one in colored:
        if not isinstance(one, np.ndarray) or one.shape != image.shape or one.dtype != np.uint8:
            yield f'colors() gives {getattr(one, "dtype", type(one).__name__)} {np.shape(one)}, not uint8 {image.shape}'
            return
    if len(colored) != 2:
        yield f'colors() gives {len(colored)} images for 2'
    if crop != second[0] or any((a != b).any() for a, b in zip(colored, second[1], strict=True)):
        yield 'the same generator gives another result: use `rng` only'


def try_image_transform(part: object) -> Iterator[str]:
    """Two views, twice from the same random numbers; before that, the pictures that a data set tries it with."""
    image = np.tile(np.arange(64, dtype=np.uint8)[None, :, None] * 3, (48, 1, 3))
    step, views = EachView(part, 'transform'), [image, image[::-1].copy()]
    first, second = (step(dict(images=views, rng=np.random.default_rng(4)))['images'] for _ in range(2))
    if any((a != b).any() for a, b in zip(first, second, strict=True)):
        yield 'the same random numbers give another result: draw from np.random or random, which are seeded for each view'


def _transformed(part: object, image: np.ndarray, size: tuple[int, int], rng: np.random.Generator) -> tuple:
    return part.crop(IMAGE_SIZE, INTRINSICS, size, rng), part.colors([image.copy(), image.copy()], rng)


def try_batches(part: object) -> Iterator[str]:
    """Five batches, then the last two of them again after `set_position`."""
    part.set_position(0)
    batches = list(islice(iter(part), 5))
    for batch in batches:
        if not batch or not all(isinstance(one, SampleRequest) for one in batch):
            yield f'a batch is {batch!r}, not a list of SampleRequest'
            return
        if len({(one.num_views, one.aspect_ratio) for one in batch}) > 1 or batch[0].num_views < 1:
            yield f'samples of a batch must agree in number of views and aspect ratio, got {batch}'
        if not all(0 <= one.index < 3 for one in batch):
            yield f'of 3 scenes it asks for {[one.index for one in batch]}'
    if len(batches) < 5:
        yield f'it ends after {len(batches)} batches'
    draws = [one.draw for batch in batches for one in batch]
    if len(set(draws)) < len(draws):
        yield 'two samples have one `draw`: they would use the same random numbers'
    part.set_position(3)
    if list(islice(iter(part), 2)) != batches[3:]:
        yield 'after set_position(3) it does not go on as it did from the start: batch k may depend on the seed and k only'


class Recording(Scene):
    """Frames of a camera that moves along a wall two metres away."""

    def __init__(self, num_frames: int) -> None:
        super().__init__(Path('recording'))
        self.num_frames = num_frames

    @property
    def frames(self) -> list[Frame]:
        """One every ten centimetres."""
        poses = [np.array([[1, 0, 0, -0.1 * number], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1.0]])
                 for number in range(self.num_frames)]
        return [Frame(f'{number:06}', number, 0, pose) for number, pose in enumerate(poses)]

    def camera(self, frame: Frame) -> Camera:
        """Return one camera for colour and depth."""
        return Camera(IMAGE_SIZE, INTRINSICS, IMAGE_SIZE, INTRINSICS)

    def depth_m(self, frame: Frame) -> np.ndarray:
        """Return (H, W) float32: the wall."""
        return np.full(IMAGE_SIZE, 2, np.float32)


def try_view_choice(part: object) -> Iterator[str]:
    """Two and four of twelve frames, four of two; twice from the same random numbers."""
    for available, views in ((12, 2), (12, 4), (2, 4)):
        scene = Recording(available)
        first, second = (np.asarray(part.choose(scene, scene.frames, views, np.random.default_rng(3))) for _ in range(2))
        if first.shape != (views,) or not np.issubdtype(first.dtype, np.integer) or not set(first) <= set(range(available)):
            yield f'of {available} frames it chooses {first!r} for {views} views'
        elif (first != second).any():
            yield 'the same generator gives other views: use `rng` only'


TRIALS = {
    'DATASETS': try_dataset, 'TRANSFORMS.views': try_views_transform, 'TRANSFORMS.image': try_image_transform,
    'SAMPLERS.batches': try_batches, 'SAMPLERS.view_choice': try_view_choice}
