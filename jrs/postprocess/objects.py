"""Each instance by itself: the pictures of it, cut out, and its points.

    objects/
      001_chair/VIEW.png       RGBA crop of the original photo; alpha is the mask
      001_chair/points.ply     its points, as in cloud.ply
      objects.json             which instance, which crop is of where
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np

from jrs.benchmarks import class_name
from jrs.errors import DataError
from jrs.geometry.cloud import PointCloud
from jrs.io.atomic import atomic_write
from jrs.io.images import LoadedPhotos
from jrs.io.names import plain_name
from jrs.io.png import encode_png_alpha
from jrs.structures import Instances


def write_objects(folder: Path, found: Instances, ids_of: Callable[[int], np.ndarray], views: Sequence[str],
                  photos: LoadedPhotos, class_names: Sequence[str], cloud: PointCloud | None,
                  write_points: Callable[[Path, np.ndarray], Path]) -> Path:
    """Write a folder per instance into `folder` (see above), whose earlier content goes; return it.

    Where masks overlap, a pixel is of the instance with the better score, as in masks/ and clouds.

    Args:
        ids_of: returns the instance ids (H0, W0) of a view at the size of its photo, 0 = none.
        views: names of the views, as files of results are called.
        class_names: K names.
        write_points: writes the points of the cloud that a mask (N,) chooses to a file.

    Raises:
        DataError: a photo is no longer of the size that it had when it was read.
    """
    if folder.is_dir():
        shutil.rmtree(folder)
    names = [class_name(class_names, int(label)) for label in found.labels]
    places = [folder / f'{index + 1:03d}_{plain_name(name).replace(" ", "_")}' for index, name in enumerate(names)]
    crops: list[list[dict]] = [[] for _ in names]
    for view, name in enumerate(views):
        for index, crop, record in _crops(photos.originals[view].read(), ids_of(view), name):
            with atomic_write(places[index] / f'{name}.png') as file:
                file.write(encode_png_alpha(crop))
            crops[index].append(record | {'file': f'{places[index].name}/{name}.png'})
    entries = []
    for index, place in enumerate(places):
        chosen = None if cloud is None else cloud.instances == index + 1
        entry = {'id': index + 1, 'class': names[index], 'score': float(found.scores[index]), 'crops': crops[index]}
        if chosen is not None and chosen.any():
            file = write_points(place / 'points.ply', chosen)
            entry['points'] = {'file': f'{place.name}/{file.name}', 'count': int(chosen.sum())}
        entries.append(entry)
    folder.mkdir(parents=True, exist_ok=True)
    with atomic_write(folder / 'objects.json', 'w') as file:
        file.write(json.dumps({'objects': entries, 'note': 'box: x0, y0, x1, y1 of the crop in pixels of the photo, the '
                               'last ones excluded. Ids are those of instances.json.'}, indent=1, allow_nan=False) + '\n')
    return folder


def _crops(picture: np.ndarray, ids: np.ndarray, view: str) -> Iterator[tuple[int, np.ndarray, dict]]:
    """Yield index, RGBA crop (h, w, 4) uint8 and record of every instance in a view.

    `picture` is (H, W, 3) uint8, which may have been read reduced; `ids` (H0, W0).
    """
    if picture.shape[:2] != ids.shape:
        rows, columns = (np.minimum((np.arange(small) + 0.5) * full / small, full - 1).astype(int)
                         for small, full in zip(picture.shape[:2], ids.shape, strict=True))
        if abs(picture.shape[0] * ids.shape[1] - picture.shape[1] * ids.shape[0]) > 2 * max(ids.shape):
            raise DataError(f'the photo of view {view} has {picture.shape[1]} x {picture.shape[0]} pixels, and had '
                            f'{ids.shape[1]} x {ids.shape[0]} when it was read: leave photos as they are meanwhile.')
        ids = ids[rows][:, columns]
    for number in np.unique(ids[ids > 0]):
        mask = ids == number
        rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
        top, bottom, left, right = rows[0], rows[-1] + 1, columns[0], columns[-1] + 1
        alpha = 255 * mask[top:bottom, left:right, None].astype(np.uint8)
        yield int(number) - 1, np.concatenate([picture[top:bottom, left:right], alpha], axis=2), {
            'view': view, 'box': [int(left), int(top), int(right), int(bottom)], 'pixels': int(mask.sum())}
