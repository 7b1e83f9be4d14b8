"""Figures 6 and 7: instances on the mesh of a scene, predictions beside the truth; two methods with enlarged regions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from jrs.benchmarks import Benchmark
from jrs.datasets.scene import SceneFolder
from jrs.errors import DataError
from jrs.report.figures.sheet import Box, Cell, Row
from jrs.viewer.read import read_predictions, read_scene
from jrs.viewer.result import Result, shared_out
from jrs.viewer.shown import ious
from jrs.visualization.cloud import Shot, scene_frame, shot_of
from jrs.visualization.overlays import colour_ids, instance_colours
from jrs.visualization.report import SAME_OBJECT
from jrs.visualization.surface import Raster, rasterised

PIXELS = (510, 680)                             # height and width of a picture before print
MARGIN = 0.25                                   # around an enlarged instance, of its sides
SMALLEST = 0.12                                 # of the picture, the least width of a region
SEEN_SHARE = 0.0012                             # of a picture, that an instance takes which is chosen to be enlarged
REGION_COLOURS = ((214, 40, 40), (29, 105, 196), (40, 140, 60), (150, 60, 180))
TRUTH = 'ground truth'


@dataclass
class Overlaps:
    """How the predictions of one method fit the true instances of a scene.

    Attributes:
        iou: (M, G) on the vertices.
        hit: (M,) number of the true instance, 0 = none with IoU `SAME_OBJECT`.
        best: (G,) IoU of the best prediction of each true instance, 0 without any.
    """

    iou: np.ndarray
    hit: np.ndarray
    best: np.ndarray


@dataclass
class Room:
    """One scene: its mesh, the truth, and what each method says, in colours that agree.

    Attributes:
        name: of the scene.
        faces: (M, 3) triangles; the vertices are the points of the results.
        truth: instances of the benchmark's instance classes.
        methods: label -> predictions that count, best first.
        overlaps: label -> how these fit.
        true_numbers: (G,) ids of the true instances in the scene folder.
        frame: axes, centre and radius from `scene_frame`.
    """

    name: str
    faces: np.ndarray
    truth: Result
    methods: Mapping[str, Result]
    overlaps: Mapping[str, Overlaps]
    true_numbers: np.ndarray
    frame: tuple[np.ndarray, np.ndarray, float]

    def shot(self, yaw: float, pitch: float) -> Shot:
        """Return the camera that looks into the room from `yaw` and `pitch` degrees, and holds all of it."""
        return shot_of(self.truth.points, *self.frame, yaw, pitch, PIXELS)

    def seen(self, shot: Shot) -> Raster:
        """Return what a shot shows of the mesh."""
        return rasterised(shot, self.truth.points, self.faces)

    def cells(self, raster: Raster) -> list[np.ndarray]:
        """Return pictures of a shot: the mesh in its own colours, then in those of the instances of each of `results`."""
        pictures = [raster.picture(self.faces, self.truth.colours)]
        for result in self.results().values():
            colours = np.array([one.colour for one in result.found], np.uint8).reshape(-1, 3)
            pictures.append(raster.patches(self.faces, colour_ids(result.instances, colours)))
        return pictures

    def results(self) -> dict[str, Result]:
        """Return what stands side by side: the methods, then the truth."""
        return {**self.methods, TRUTH: self.truth}


def read_room(scene: Path, methods: Mapping[str, Path], benchmark: Benchmark, min_score: float) -> Room:
    """Return a scene with what prediction files of several methods say of it.

    Args:
        scene: its folder.
        methods: label -> folder of prediction files.
        benchmark: whose classes and files they are; other true objects (walls, floors) are background.
        min_score: predictions below it are left out.

    Raises:
        DataError: a file is missing or broken, or the scene has no true instance of the benchmark.
    """
    folder = SceneFolder(scene)
    mesh = folder.mesh()
    truth, numbers = scored_truth(scene, benchmark)
    found = {label: at_least(read_predictions(path, scene, benchmark), min_score) for label, path in methods.items()}
    overlaps = {label: overlaps_of(result, truth) for label, result in found.items()}
    found = {label: recoloured(result, overlaps[label].hit, truth) for label, result in found.items()}
    cameras = np.stack([view.cam_from_world for view in truth.views])
    return Room(scene.name, mesh.faces, truth, found, overlaps, numbers, scene_frame(mesh.vertices, cameras))


def scored_truth(scene: Path, benchmark: Benchmark) -> tuple[Result, np.ndarray]:
    """Return the true instances whose classes the benchmark scores, and their ids (G,) in the scene folder."""
    every, annotated = read_scene(scene), SceneFolder(scene).instances or []
    kept = [index for index, one in enumerate(annotated, start=1)
            if benchmark.class_id(one.classes, one.label) in benchmark.class_index_of_id
            and (every.instances == index).any()]
    if not kept:
        raise DataError(f'{scene}: no instance is of a class that {benchmark.name} scores; choose another scene or '
                        '--benchmark.')
    renumber = np.zeros(len(annotated) + 1, np.int32)
    renumber[kept] = np.arange(1, len(kept) + 1)
    names = benchmark.name_of_id
    found = [replace(every.found[index - 1], colour=colour,
                     name=names[benchmark.class_id(annotated[index - 1].classes, annotated[index - 1].label)])
             for index, colour in zip(kept, instance_colours(len(kept)), strict=True)]
    return replace(every, instances=renumber[every.instances], found=found), np.array([annotated[i - 1].id for i in kept])


def at_least(result: Result, min_score: float) -> Result:
    """Return the predictions of a result with that score or better; their points are shared out anew."""
    kept = [index for index, one in enumerate(result.found) if one.score >= min_score]
    masks = result.masks[kept]
    return replace(result, found=[result.found[index] for index in kept], masks=masks,
                   instances=shared_out(masks, len(result.points)))


def overlaps_of(result: Result, truth: Result) -> Overlaps:
    """Return how predictions fit the true instances, on the vertices that both are of."""
    count, true_count = len(result.found), len(truth.found)
    iou = np.array([ious(result.mask(index + 1), truth) for index in range(count)]).reshape(count, true_count)
    hit = np.where(iou.max(1, initial=0) >= SAME_OBJECT, iou.argmax(1) + 1 if true_count else 0, 0)
    return Overlaps(iou, hit, iou.max(0, initial=0))


def recoloured(result: Result, hit: np.ndarray, truth: Result) -> Result:
    """Return predictions (M,) in the colours of the true instances that they `hit` (M,); others in colours of their own."""
    own = instance_colours(len(truth.found) + len(result.found))[len(truth.found):]
    found = [replace(one, colour=truth.found[number - 1].colour if number else colour)
             for one, number, colour in zip(result.found, hit.tolist(), own, strict=True)]
    return replace(result, found=found)


def comparison_rows(rooms: Sequence[Room], yaw: float, pitch: float) -> list[Row]:
    """Return the rows of Figure 6: per scene its mesh, what each method says, and the truth, from one side."""
    return [Row([Cell(picture) for picture in room.cells(room.seen(room.shot(yaw, pitch)))], room.name,
                ['mesh', *room.results()] if place == 0 else ()) for place, room in enumerate(rooms)]


def telling_regions(room: Room, shot: Shot, count: int) -> list[int]:
    """Return numbers of true instances on which two methods differ most: by IoU of their best predictions, if well seen."""
    first, second = (room.overlaps[label].best for label in list(room.methods)[:2])
    pixels = np.bincount(room.seen(shot).numbers(room.faces, room.truth.instances).ravel(),
                         minlength=len(room.truth.found) + 1)[1:]
    seen = pixels >= SEEN_SHARE * shot.size[0] * shot.size[1]
    order = np.argsort(-np.where(seen, np.abs(first - second), -1), kind='stable')
    return [int(index) + 1 for index in order[:count] if seen[index]]


def region_of(shown: np.ndarray) -> tuple[float, float, float, float] | None:
    """Return the part x, y, width, height around the pixels that are `shown` (h, w), of its aspect, inside it.

    None where none is.
    """
    height, width = shown.shape
    rows, columns = np.nonzero(shown)
    if not len(rows):
        return None
    (top, bottom), (left, right) = (np.percentile(values, [1, 99]) for values in (rows, columns))
    wide = max((right - left) * (1 + 2 * MARGIN), (bottom - top) * (1 + 2 * MARGIN) * width / height, SMALLEST * width)
    wide = min(wide, width)
    high = wide * height / width
    x = min(max((left + right - wide) / 2, 0), width - wide)
    y = min(max((top + bottom - high) / 2, 0), height - high)
    return float(x), float(y), float(wide), float(high)


def enlarged_rows(room: Room, shot: Shot, numbers: Sequence[int]) -> list[Row]:
    """Return the rows of Figure 7: both methods and the truth with regions boxed, then a row per region, enlarged.

    Raises:
        DataError: one of the true instances `numbers` is not seen from there.
    """
    raster = room.seen(shot)
    shown = raster.numbers(room.faces, room.truth.instances)
    regions = [region_of(shown == number) for number in numbers]
    for number, region in zip(numbers, regions, strict=True):
        if region is None:
            raise DataError(f'{room.name}: instance {room.true_numbers[number - 1]} is not seen from this side; choose '
                            'another --yaw, --pitch or --instance.')
    colours = [REGION_COLOURS[index % len(REGION_COLOURS)] for index in range(len(regions))]
    boxes = [Box(colour, region) for colour, region in zip(colours, regions, strict=True)]
    rows = [Row([Cell(picture, boxes=boxes) for picture in room.cells(raster)], room.name, ['mesh', *room.results()])]
    for number, region, colour in zip(numbers, regions, colours, strict=True):
        notes = ['', *(f'IoU {overlaps.best[number - 1]:.2f}' for overlaps in room.overlaps.values()), '']
        pictures = room.cells(room.seen(shot.zoomed(region)))
        rows.append(Row([Cell(picture, note, [Box(colour)]) for picture, note in zip(pictures, notes, strict=True)],
                        room.truth.found[number - 1].name))
    return rows


def room_numbers(room: Room, enlarged: Sequence[int] = ()) -> list[dict]:
    """Return a row per method and prediction, and per true instance that none hits; `enlarged` ones are marked."""
    rows = []
    for label, result in room.methods.items():
        overlaps = room.overlaps[label]
        for index, one in enumerate(result.found):
            hit = int(overlaps.hit[index])
            rows.append(_row(room, label, hit, enlarged) | dict(
                prediction=index + 1, label=one.name, score=one.score, vertices=int(result.mask(index + 1).sum()),
                iou=float(overlaps.iou[index].max(initial=0))))
        for number in sorted(set(range(1, len(room.truth.found) + 1)) - set(overlaps.hit.tolist())):
            rows.append(_row(room, label, number, enlarged) | dict(
                prediction='', label='', score='', vertices='', iou=float(overlaps.best[number - 1])))
    return rows


def _row(room: Room, label: str, number: int, enlarged: Sequence[int]) -> dict:
    true = dict(true_instance=int(room.true_numbers[number - 1]), true_label=room.truth.found[number - 1].name,
                true_vertices=int(room.truth.mask(number).sum())) if number else dict(
                    true_instance='', true_label='', true_vertices='')
    return dict(scene=room.name, method=label, **true, enlarged=int(number in enlarged and number > 0))
