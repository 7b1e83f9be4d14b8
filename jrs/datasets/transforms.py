"""Resizing, cropping and colours of views: what moves a pixel moves its camera, depth and instance id along.

Pixel centres are at integers, so a resize by s maps c to (c + 0.5) * s - 0.5. Every geometric change has a (3, 3)
matrix that says where a pixel went and whose inverse undoes it. The test-time resizes are `jrs.io.images.RESIZES`.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from jrs.errors import ConfigError
from jrs.io.images import resample, resize_map
from jrs.registry import TRANSFORMS

Size = tuple[int, int]                                                     # (H, W)


@dataclass(frozen=True)
class ResizeCrop:
    """A resize to `resized`, then a window of `size` whose corner is at `offset`.

    Attributes:
        source: (H, W) of what comes in.
        resized: (H, W) after the resize.
        offset: (top, left) of the window in the resized image; it lies inside.
        size: (H, W) of what comes out.
        resample: the filter of the resize, a name that `jrs.io.images.resample` knows.
    """

    source: Size
    resized: Size
    offset: tuple[int, int]
    size: Size
    resample: str = 'area'

    @property
    def matrix(self) -> np.ndarray:
        """The (3, 3) affine map of source pixels (u, v, 1) to output pixels."""
        top, left = self.offset
        return resize_map(self.resized[1] / self.source[1], self.resized[0] / self.source[0], -left, -top)

    def image(self, image: np.ndarray) -> np.ndarray:
        """Return (H, W, 3) uint8 at `size`; by default area-averaged where it shrinks, bicubic where it grows."""
        if image.shape[:2] != self.source:
            raise ValueError(f'image must be {self.source[0]} x {self.source[1]}, got {image.shape[:2]}')
        if self.resized != self.source:
            image = resample(image, self.resized, self.resample)
        top, left = self.offset
        return np.ascontiguousarray(image[top:top + self.size[0], left:left + self.size[1]])


def sample_nearest(values: np.ndarray, out_from_values: np.ndarray, size: Size, fill: float = 0) -> np.ndarray:
    """Read `values` (H0, W0) at the pixels of an image of `size`, nearest neighbour; never mixes ids or depths.

    Args:
        values: depth or ids, any resolution.
        out_from_values: (3, 3) map of its pixels to those of the result: a scale and a shift per axis.
        size: (H, W) of the result.
        fill: for pixels that lie outside `values`.
    """
    rows, rows_in = _nearest_index(out_from_values[1, 1], out_from_values[1, 2], size[0], values.shape[0])
    columns, columns_in = _nearest_index(out_from_values[0, 0], out_from_values[0, 2], size[1], values.shape[1])
    out = values[rows[:, None], columns[None]]                             # (H, W)
    return np.where(rows_in[:, None] & columns_in[None], out, np.asarray(fill, values.dtype))


def _nearest_index(scale: float, shift: float, count: int, available: int) -> tuple[np.ndarray, np.ndarray]:
    index = np.floor((np.arange(count) - shift) / scale + 0.5).astype(np.int64)
    return np.clip(index, 0, available - 1), (index >= 0) & (index < available)


def height_for(aspect_ratio: float, width: int, patch_size: int) -> int:
    """Return the height of training views: floor(width * ratio), floored to a multiple of the patch, at least one."""
    # The ratio has two decimals; the rounding keeps 112 * 0.75 from becoming 83.999.
    return max(1, int(round(width * aspect_ratio, 6)) // patch_size) * patch_size


def crop_around_principal_point(source: Size, intrinsics: np.ndarray, size: Size, scale: tuple[float, float] = (1, 1),
                                margin: float = 0.0) -> ResizeCrop:
    """Return the training crop: centred on the principal point, as large as `scale` and `margin` leave it.

    Spec: vggt.md section 16, per-frame processing. The window never leaves the image, so nothing is padded.

    Args:
        source: (H, W) of the colour image.
        intrinsics: (3, 3) of the colour image.
        size: (H, W) of the result.
        scale: share of the image's height and width to crop first, above 1 means all of it.
        margin: pixels that the resized crop keeps around the result, on both sides together.
    """
    centre = intrinsics[[1, 0], 2]                                          # (v, u)
    reach = np.minimum(centre + 0.5, np.array(source) - 0.5 - centre)       # to the nearer border, per axis
    if (reach <= 1).any():
        raise ConfigError(f'The principal point {centre[::-1].tolist()} lies outside an image of {source[::-1]} '
                          'pixels (width, height): the intrinsics belong to another resolution.')
    crop = np.minimum(2 * reach, np.array(source) * np.minimum(scale, 1.0))
    zoom = float(((np.array(size) + margin) / crop).max())
    # Rounding up keeps the window inside; a step of one source pixel changes the zoom by under 0.1 %.
    resized = np.ceil(np.array(source) * zoom - 1e-9).astype(int)
    centre = (centre + 0.5) * resized / source                              # from the corner, in resized pixels
    offset = np.clip(np.round(centre - np.array(size) / 2), 0, resized - size).astype(int)
    return ResizeCrop(tuple(source), tuple(resized.tolist()), tuple(offset.tolist()), tuple(size))


@TRANSFORMS.register_module()
class TrainViews:
    """Random crops and colours of training views (vggt.md section 16).

    Args:
        scale: bounds of the crop's share of the image, drawn per axis and view; above 1 counts as 1.
        margin_pixels: kept around the result, then cropped away.
        margin_fraction: largest further margin, a share of the longer side; its distribution falls to 0 there.
        brightness, contrast, saturation: factors are drawn from 1 - value to 1 + value.
        hue: largest turn of the hue, in full circles.
        jitter_probability: of any change of colour.
        grayscale_probability: of dropping all colour.
        same_for_all_views: probability that the views of a scene share one change; else each draws its own.
    """

    def __init__(self, scale: tuple[float, float] = (0.8, 1.2), margin_pixels: int = 4, margin_fraction: float = 0.3,
                 brightness: float = 0.5, contrast: float = 0.5, saturation: float = 0.5, hue: float = 0.1,
                 jitter_probability: float = 0.9, grayscale_probability: float = 0.05,
                 same_for_all_views: float = 0.7) -> None:
        self.scale = scale
        self.margin_pixels = margin_pixels
        self.margin_fraction = margin_fraction
        self.factors = {'brightness': brightness, 'contrast': contrast, 'saturation': saturation, 'hue': hue}
        self.jitter_probability = jitter_probability
        self.grayscale_probability = grayscale_probability
        self.same_for_all_views = same_for_all_views

    def crop(self, source: Size, intrinsics: np.ndarray, size: Size, rng: np.random.Generator) -> ResizeCrop:
        """Return the crop of one view; `intrinsics` (3, 3) and sizes as of `crop_around_principal_point`."""
        scale = rng.uniform(*self.scale, 2)
        fraction = rng.triangular(0, 0, self.margin_fraction) if self.margin_fraction > 0 else 0.0
        return crop_around_principal_point(source, intrinsics, size, tuple(scale),
                                           self.margin_pixels + fraction * max(size))

    def colors(self, images: list[np.ndarray], rng: np.random.Generator) -> list[np.ndarray]:
        """Return the V images (H, W, 3) uint8 with changed colours."""
        if rng.random() < self.same_for_all_views:
            shared = self._draw(rng)
            return [shift_colors(image, *shared) for image in images]
        return [shift_colors(image, *self._draw(rng)) for image in images]

    def _draw(self, rng: np.random.Generator) -> tuple[list[tuple[str, float]], bool]:
        """Return the steps of a change in their random order, and whether to end in grey."""
        jitter = rng.random() < self.jitter_probability
        steps = []
        for name in rng.permutation(sorted(self.factors)).tolist():
            reach = self.factors[name]
            steps.append((name, rng.uniform(-reach, reach) + (name != 'hue')))
        gray = rng.random() < self.grayscale_probability
        return (steps if jitter else []), gray


def shift_colors(image: np.ndarray, steps: list[tuple[str, float]], gray: bool) -> np.ndarray:
    """Apply colour steps to an RGB image (H, W, 3) uint8.

    Args:
        image: what to change.
        steps: ('brightness' | 'contrast' | 'saturation', factor around 1) or ('hue', turn in full circles).
        gray: whether to drop the colour in the end.
    """
    if not steps and not gray:
        return image
    color = image.astype(np.float32) / 255
    for name, amount in steps:
        color = np.clip(_STEPS[name](color, np.float32(amount)), 0, 1)
    if gray:
        color = np.repeat(_luma(color), 3, axis=2)
    return (color * 255 + 0.5).astype(np.uint8)


def _luma(color: np.ndarray) -> np.ndarray:
    """Return the brightness (H, W, 1) of RGB (H, W, 3), ITU-R BT.601."""
    return (color @ np.array([0.299, 0.587, 0.114], np.float32))[..., None]


def _turn_hue(color: np.ndarray, turn: np.float32) -> np.ndarray:
    hsv = cv2.cvtColor(color, cv2.COLOR_RGB2HSV)                            # hue in 0 .. 360
    hsv[..., 0] = (hsv[..., 0] + 360 * turn) % 360
    return cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB)


_STEPS = {
    'brightness': lambda color, factor: color * factor,
    'contrast': lambda color, factor: color * factor + (1 - factor) * _luma(color).mean(),
    'saturation': lambda color, factor: color * factor + (1 - factor) * _luma(color),
    'hue': _turn_hue,
}
