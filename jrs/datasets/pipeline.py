"""What changes the views of a training sample: parts of ours for all of them, and any transform of mmcv for each.

mmcv's transforms know one image; they get a dictionary of results for each view:

    img         (H, W, 3) uint8 BGR, as mmcv loads pictures, at the size of the network input
    img_shape   (H, W)
    ori_shape   (H, W), the same: the view is cut and resized before
    view        its place in the sample, 0 is the reference view

Only `img` is read back. It stays (H, W, 3), uint8 or floating in 0 .. 255: what cuts, flips, scales or normalises would
leave cameras, depth and ids behind, and is refused. Each transform is tried on a picture when it is built.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import cv2
import numpy as np
import torch
from mmcv.transforms import BaseTransform, Compose
from mmengine.registry import DefaultScope

from jrs.datasets.transforms import ResizeCrop, Size, crop_around_principal_point
from jrs.errors import ConfigError, JrsError
from jrs.registry import TRANSFORMS, build

# Keys that mmcv's geometric transforms leave in the results, and `Normalize`.
REFUSED = ('flip', 'flip_direction', 'scale', 'scale_factor', 'keep_ratio', 'pad_shape', 'pad_fixed_size',
           'pad_size_divisor', 'homography_matrix', 'img_norm_cfg')
INSTEAD = 'Use what changes colours only; TrainViews crops and scales, and moves cameras, depth and ids along'
PROBES = 64                                     # random draws that each transform is tried with when it is built
PROBE = np.random.default_rng(0).integers(0, 256, (56, 84, 3), dtype=np.uint8)


class EachView(BaseTransform):
    """Lets a transform of mmcv, which knows one image, change every view of a sample.

    Each view has random numbers of its own, from the sample's generator. numpy's, Python's and torch's global generators,
    which such transforms draw from, are as before afterwards.

    Args:
        part: the transform.
        path: where it stands in the config, for messages.
    """

    def __init__(self, part: BaseTransform, path: str) -> None:
        self.part = part
        self.path = path
        for leaf in _leaves(part):                                  # what is wrong is said before anything is trained
            for seed in range(PROBES):
                with own_randomness(seed):
                    self._changed(leaf, PROBE, 0)

    def transform(self, results: dict[str, Any]) -> dict[str, Any]:
        """Change `images` of a sample, V times (H, W, 3) uint8 RGB, with numbers from its `rng`."""
        images, changed = results['images'], []
        for view, (image, seed) in enumerate(zip(images, results['rng'].integers(1 << 32, size=len(images)), strict=True)):
            with own_randomness(int(seed)):
                changed.append(self._changed(self.part, image, view))
        return {**results, 'images': changed}

    def _changed(self, part: BaseTransform, image: np.ndarray, view: int) -> np.ndarray:
        """Return one image (H, W, 3) uint8 RGB as `part` changes it."""
        size = image.shape[:2]
        given = dict(img=cv2.cvtColor(image, cv2.COLOR_RGB2BGR), img_shape=size, ori_shape=size, view=view)
        try:
            found = part(dict(given))
        except Exception as error:
            raise ConfigError(f'{self.path}: {type(part).__name__} cannot work on a view ({type(error).__name__}: {error}). '
                              f'It is given {", ".join(given)}. {INSTEAD}.') from error
        if not isinstance(found, dict) or 'img' not in found:
            raise ConfigError(f'{self.path}: {type(part).__name__} must return the results with `img`, got '
                              f'{type(found).__name__}; a view cannot be left out.')
        if fault := _fault(found, image):
            raise ConfigError(f'{self.path}: {type(part).__name__} {fault}. {INSTEAD}.')
        colors = found['img']
        if colors.dtype != np.uint8:
            colors = (colors + 0.5).astype(np.uint8)
        return cv2.cvtColor(np.ascontiguousarray(colors), cv2.COLOR_BGR2RGB)


class AllViews(BaseTransform):
    """Lets a part with `colors` change the views of a sample together."""

    def __init__(self, part: Any) -> None:
        self.part = part

    def transform(self, results: dict[str, Any]) -> dict[str, Any]:
        """Change `images` of a sample, V times (H, W, 3) uint8 RGB, with numbers from its `rng`."""
        return {**results, 'images': self.part.colors(results['images'], results['rng'])}


class ViewPipeline:
    """The parts of a `transform` in their order: the one with `crop` says what is cut out, all of them change colours.

    Args:
        config: config of a part of `TRANSFORMS`, or a list of such: ours, or any of mmcv.
        path: where it stands, for messages.

    Raises:
        ConfigError: two parts crop, or a transform of mmcv does more than changing colours.
    """

    def __init__(self, config: Mapping | Sequence[Mapping], path: str) -> None:
        listed = config if isinstance(config, (list, tuple)) else [config]
        places = [f'{path}.{place}' for place in range(len(listed))] if isinstance(config, (list, tuple)) else [path]
        parts = [_build(part, place) for part, place in zip(listed, places, strict=True)]
        croppers = [part for part in parts if hasattr(part, 'crop')]
        if len(croppers) > 1:
            raise ConfigError(f'{path}: {" and ".join(type(part).__name__ for part in croppers)} both crop: keep one.')
        self.cropper = croppers[0] if croppers else None
        self.steps = Compose([AllViews(part) if hasattr(part, 'colors') else EachView(part, place)
                              for part, place in zip(parts, places, strict=True)])

    def crop(self, source: Size, intrinsics: np.ndarray, size: Size, rng: np.random.Generator) -> ResizeCrop:
        """Return the crop of one view, around the principal point where no part crops.

        Args:
            source: (H, W) of the colour image.
            intrinsics: (3, 3) of it.
            size: (H, W) of the result.
            rng: of the sample.
        """
        if self.cropper is None:
            return crop_around_principal_point(source, intrinsics, size)
        return self.cropper.crop(source, intrinsics, size, rng)

    def colors(self, images: list[np.ndarray], rng: np.random.Generator) -> list[np.ndarray]:
        """Return the V images (H, W, 3) uint8 RGB with changed colours."""
        return self.steps(dict(images=images, rng=rng))['images']


@contextmanager
def own_randomness(seed: int) -> Iterator[None]:
    """Seed the global generators of numpy, Python and torch (CPU) inside the block; outside they go on as before."""
    states = np.random.get_state(), random.getstate(), torch.get_rng_state()
    np.random.seed(seed)
    random.seed(seed)
    torch.default_generator.manual_seed(seed)                   # `torch.manual_seed` would reach the GPU's generators too
    try:
        yield
    finally:
        np.random.set_state(states[0])
        random.setstate(states[1])
        torch.set_rng_state(states[2])


def _build(config: Any, path: str) -> Any:
    """Return the part that `config` describes; constructors of mmcv's transforms assert what they want."""
    try:
        with DefaultScope.overwrite_default_scope('jrs'):                   # those inside others are built by mmcv
            return build(TRANSFORMS, config, path)
    except JrsError:
        raise
    except Exception as error:
        raise ConfigError(f'{path}: {config.get("type")} cannot be made ({type(error).__name__}: {error}).') from error


def _leaves(part: Any) -> Iterator[Any]:
    """Yield the transforms that a nest of `Compose`, `RandomChoice`, `RandomApply` and the like comes down to."""
    inner = getattr(part, 'transforms', None)
    if isinstance(inner, BaseTransform) or isinstance(inner, Sequence) and not isinstance(inner, str):
        for one in [inner] if isinstance(inner, BaseTransform) else inner:
            yield from _leaves(one)
    elif inner is None and isinstance(part, Sequence):
        for one in part:
            yield from _leaves(one)
    else:
        yield part


def _fault(results: Mapping, image: np.ndarray) -> str | None:
    """Return what a transform did to `image` (H, W, 3) that a view cannot bear; None where nothing."""
    said, found = [key for key in REFUSED if key in results], results['img']
    if said:
        return f'sets {", ".join(map(repr, said))}: it moves or normalises pixels'
    if not isinstance(found, np.ndarray) or found.shape != image.shape:
        hint = ' (keep_channels=True keeps three)' if getattr(found, 'ndim', 3) == 2 else ''
        return f'makes {getattr(found, "shape", type(found).__name__)} of an image of {image.shape}{hint}'
    if found.dtype == np.uint8:
        return None
    if found.dtype.kind != 'f' or not (found >= 0).all() or not (found <= 255).all() or found.max() <= 1 < image.max():
        return f'gives {found.dtype} from {found.min()} to {found.max()}, and an image is uint8 or floating in 0 .. 255'
    return None
