"""A reconstruction as files that other programs read: PLY, GLB, COLMAP's model, JSON, mask images.

Every file appears whole or not at all, and nothing is written from depth or cameras that are not finite.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

import cv2
import numpy as np
import torch
from torch import Tensor

from jrs.benchmarks import class_name
from jrs.errors import DataError, JrsError
from jrs.geometry.cloud import (
    FRUSTUM_EDGES,
    PointCloud,
    camera_corners,
    check_finite,
    frustum_size,
    instance_map,
)
from jrs.geometry.pixels import at_centres, nearest_index
from jrs.io.atomic import atomic_write
from jrs.io.images import LoadedPhotos
from jrs.io.known_geometry import unit_in_words
from jrs.io.photo_files import remarks_on
from jrs.io.ply import write_ply
from jrs.io.png import write_jpeg, write_png16
from jrs.postprocess.colmap import write_colmap
from jrs.postprocess.objects import write_objects
from jrs.structures import Reconstruction, pack_bits

CONVENTION = ('cam_from_world (4 x 4, row-major) maps world to camera coordinates: p_cam = cam_from_world @ [p_world, 1]. '
              'Camera axes are OpenCV\'s: x right, y down, z forward. The world is {world}. '
              'Intrinsics are in pixels of the original image (width x height below, after EXIF rotation), with pixel '
              'centres at integer coordinates.')
FEATURE_COLUMNS = ('feature_red', 'feature_green', 'feature_blue')      # of cloud.ply
NO_INSTANCE = (150, 154, 162)                   # colour in instances.ply
MOST_IDS = 65535                                # of a 16-bit mask
CUT_OFF = (225, 227, 231)                       # of a photo what the network did not see
GLTF_FROM_OPENCV = np.diag([1.0, -1.0, -1.0, 1.0])          # glTF: y up, z backward


def export_scene(folder: str | Path, scene: Reconstruction, photos: LoadedPhotos, cloud: PointCloud | None,
                 class_names: Sequence[str], palette: np.ndarray, weights: dict | None = None, glb: bool = True,
                 colmap: bool = False, novel: Collection[str] = (), objects: bool = False) -> list[Path]:
    """Write everything that the scene has into `folder`; return the files and folders written.

    Args:
        scene: the reconstruction; masks already without padding (`without_padding`).
        photos: the views it was made from, for original sizes.
        cloud: from `jrs.geometry.cloud.point_cloud`; None where the model has no depth or no cameras: no PLY, no GLB.
        class_names: K names.
        palette: (M, 3) uint8, one colour per instance.
        weights: what is known of the weights, repeated in instances.json.
        glb: also scene.glb (needs trimesh).
        colmap: also COLMAP's text model and transforms.json, and their pictures, in `colmap/` (`jrs.postprocess.colmap`).
        novel: those of the names that no training of the weights saw; instances.json says so of each instance.
        objects: also a folder per instance with its crops and points (`jrs.postprocess.objects`).

    Raises:
        DataError: depth or cameras are not finite. JrsError: trimesh is not installed.
    """
    folder = Path(folder)
    check_finite(scene)
    unit = f'unit: {unit_in_words(scene.scale)}'
    written = [] if cloud is None else write_clouds(folder, cloud, unit, None if scene.instances is None else palette)
    if scene.instances is not None:
        written.append(write_masks(folder / 'masks', scene, photos))
        record = instances_record(scene, cloud, class_names, palette, weights, novel)
        written.append(write_json(folder / 'instances.json', record))
        written += [_write_objects(folder / 'objects', scene, photos, cloud, class_names, unit)] if objects else []
    written.append(write_views(folder / 'views', photos))
    if scene.cam_from_world is not None:
        written.append(write_json(folder / 'cameras.json', cameras_record(scene, photos)))
    if glb and cloud is not None:
        written.append(write_glb(folder / 'scene.glb', scene, cloud))
    if colmap and cloud is not None:
        written.append(write_colmap(folder / 'colmap', scene, photos, original_intrinsics(scene, photos), cloud))
    return written


def _write_objects(folder: Path, scene: Reconstruction, photos: LoadedPhotos, cloud: PointCloud | None,
                   class_names: Sequence[str], unit: str) -> Path:
    ids = instance_map(scene.instances.packed).cpu()                                         # (V, h, w)

    def write_points(path: Path, chosen: np.ndarray) -> Path:
        own = cloud.select(chosen)
        return write_cloud(path, own, own.colours, unit)
    return write_objects(folder, scene.instances, lambda view: original_ids(ids[view], photos, view), scene.view_names,
                         photos, class_names, cloud, write_points)


def without_padding(scene: Reconstruction, photos: LoadedPhotos) -> Reconstruction:
    """Return the reconstruction with masks cleared where views were padded, and without instances that this empties."""
    if scene.instances is None or bool(photos.valid.all()):
        return scene
    found = scene.instances
    valid = pack_bits(at_centres(photos.valid, found.packed.size).flatten(1).to(found.scores.device))     # (V, bytes)
    cleared = dataclasses.replace(found, packed=dataclasses.replace(found.packed, bits=found.packed.bits & valid))
    kept = cleared.packed.pixels().any(1).nonzero()[:, 0]
    return dataclasses.replace(scene, instances=cleared.select(kept))


def original_intrinsics(scene: Reconstruction, photos: LoadedPhotos) -> Tensor:
    """Return intrinsics (V, 3, 3) float64 in pixels of the original images."""
    return torch.linalg.solve(photos.input_from_original.double(), scene.intrinsics.detach().cpu().double())


def write_cloud(path: Path, cloud: PointCloud, colours: np.ndarray, comment: str,
                further: Mapping[str, np.ndarray] | None = None) -> Path:
    """Write a PLY with x y z nx ny nz red green blue instance class, what is `further` (N,) known, and a comment.

    `colours` are (N, 3) uint8.
    """
    columns = dict(zip(('x', 'y', 'z', 'nx', 'ny', 'nz'), (*cloud.points.T, *cloud.normals.T), strict=True))
    columns |= dict(zip(('red', 'green', 'blue'), colours.T, strict=True))
    write_ply(path, columns | {'instance': cloud.instances, 'class': cloud.labels} | dict(further or {}), comment=comment)
    return path


def write_clouds(folder: Path, cloud: PointCloud, comment: str, palette: np.ndarray | None) -> list[Path]:
    """Write cloud.ply, and instances.ply where there are instances, of the colours `palette` (M, 3) uint8."""
    written = [write_cloud(folder / 'cloud.ply', cloud, cloud.colours, comment, origin_columns(cloud))]
    if palette is not None:
        by_instance = np.concatenate([np.array([NO_INSTANCE], np.uint8), palette])[cloud.instances]
        written.append(write_cloud(folder / 'instances.ply', cloud, by_instance, comment))
    return written


def origin_columns(cloud: PointCloud) -> dict[str, np.ndarray]:
    """Return what a viewer asks of points, (N,) each: `view`, where known `confidence`, and `feature_red` and so on."""
    columns = {'view': cloud.views}
    if cloud.confidence is not None:
        columns['confidence'] = cloud.confidence
    if cloud.feature_colours is not None:
        columns |= dict(zip(FEATURE_COLUMNS, cloud.feature_colours.T, strict=True))
    return columns


def write_views(folder: Path, photos: LoadedPhotos) -> Path:
    """Write NAME.jpg per view: what the network saw, laid where it is in the photo; grey where it was cut off."""
    remove_old(folder, '*.jpg')
    for view, name in enumerate(photos.names):
        write_jpeg(folder / f'{name}.jpg', view_in_photo(photos, view))
    return folder


def remove_old(folder: Path, pattern: str) -> None:
    """Remove the files of an earlier run, perhaps on other photos."""
    for old in folder.glob(pattern):
        old.unlink()


def view_in_photo(photos: LoadedPhotos, view: int) -> np.ndarray:
    """Return the network input of one view in the frame of its photo, (h, w, 3) uint8 RGB.

    It has the photo's aspect and the input's scale: masks and intrinsics of the original fit it when they are scaled.
    """
    input_from_original = photos.input_from_original[view].numpy()
    scale = float(np.abs(np.linalg.det(input_from_original[:2, :2]))) ** 0.5
    height, width = (max(round(side * scale), 1) for side in photos.original_sizes[view])
    grow = np.array(photos.original_sizes[view][::-1]) / [width, height]
    original_from_picture = np.array([[grow[0], 0, grow[0] / 2 - 0.5], [0, grow[1], grow[1] / 2 - 0.5], [0, 0, 1.0]])
    image = photos.images[view].mul(255).round().clamp(0, 255).to(torch.uint8).permute(1, 2, 0).numpy()
    return cv2.warpAffine(np.ascontiguousarray(image), (input_from_original @ original_from_picture)[:2], (width, height),
                          flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP, borderMode=cv2.BORDER_CONSTANT,
                          borderValue=CUT_OFF)


def write_masks(folder: Path, scene: Reconstruction, photos: LoadedPhotos) -> Path:
    """Write NAME.png per view: 16-bit instance ids of the original image, 0 = none or cut off by the crop."""
    ids = instance_map(scene.instances.packed).cpu()                                         # (V, h, w)
    if int(ids.max()) > MOST_IDS:
        raise DataError(f'{folder}: {int(ids.max())} instances do not fit into 16-bit masks.')
    remove_old(folder, '*.png')
    for view, name in enumerate(scene.view_names):
        write_png16(folder / f'{name}.png', original_ids(ids[view], photos, view))
    return folder


def original_ids(ids: Tensor, photos: LoadedPhotos, view: int) -> np.ndarray:
    """Return the ids (h, w) of one view at the original size (H0, W0), uint16, nearest look-up; 0 outside the input.

    A photo of 200 million pixels takes 0.4 GB.
    """
    size, picked, inside = photos.images.shape[-2:], [], []
    for axis, (full, small) in enumerate(zip(size, ids.shape, strict=True)):
        to_input = photos.input_from_original[view, 1 - axis]                       # row 1 maps v, row 0 maps u
        length = photos.original_sizes[view][axis]
        position = torch.arange(length, dtype=torch.float64) * to_input[1 - axis] + to_input[2]
        pixel = (position + 0.5).floor().long()                                     # of the input, (length,)
        inside.append((pixel >= 0) & (pixel < full))
        picked.append(nearest_index(full, small, ids.device)[pixel.clamp(0, full - 1)])
    found = ids.numpy().astype(np.uint16)[picked[0].numpy()][:, picked[1].numpy()]  # (H0, W0)
    found[~inside[0].numpy()] = 0
    found[:, ~inside[1].numpy()] = 0
    return found


def cameras_record(scene: Reconstruction, photos: LoadedPhotos) -> dict:
    """Return what cameras.json holds."""
    cameras, sources = [], photos.sources
    for view, intrinsics in enumerate(original_intrinsics(scene, photos)):
        height, width = photos.original_sizes[view]
        cameras.append({'name': scene.view_names[view], **sources[view], 'width': width, 'height': height,
                        'intrinsics': intrinsics.tolist(), 'cam_from_world': scene.cam_from_world[view].tolist()})
    world = 'that of the given cameras' if 'cameras' in scene.given else 'the frame of the first camera'
    return {'convention': CONVENTION.format(world=world), 'scale': unit_in_words(scene.scale),
            'source': {part: 'given' if part in scene.given else 'predicted' for part in ('cameras', 'depth')},
            'network_input': list(photos.images.shape[-2:]), 'cameras': cameras,
            'not_read': [{'file': name, 'why': why} for name, why in photos.left_out.items()],
            'notes': remarks_on(photos.notes, shown=None)}


def instances_record(scene: Reconstruction, cloud: PointCloud | None, class_names: Sequence[str], palette: np.ndarray,
                     weights: dict | None = None, novel: Collection[str] = (), pixels: Tensor | None = None) -> dict:
    """Return what instances.json holds: one entry per instance, `id` as in masks and PLY; no points without a cloud.

    `pixels` (M, V) int64 are those of the masks in each view, where the masks themselves are not at hand.

    Where some names are `novel`, each entry says whether its own is.

    `palette` (M, 3) uint8 RGB has the colour of each instance.
    """
    found, entries = scene.instances, []
    pixels = found.packed.pixels().cpu() if pixels is None else pixels          # (M, V)
    for index in range(len(found)):
        label = int(found.labels[index])
        entries.append({
            'id': index + 1, 'class_index': label, 'class': class_name(class_names, label),
            'score': float(found.scores[index]), 'query': int(found.queries[index]), 'colour': palette[index].tolist(),
            'mask_pixels': int(pixels[index].sum()),
            'mask_pixels_per_view': dict(zip(scene.view_names, pixels[index].tolist(), strict=True)),
            **({'novel': class_name(class_names, label) in novel} if novel else {}),
            **({} if cloud is None else _place(cloud.points[cloud.instances == index + 1]))})
    return {'mask_size': list(found.packed.size), 'scale': unit_in_words(scene.scale), 'weights': weights or {},
            'instances': entries,
            'note': 'Ids are those of masks/*.png and of the PLY property "instance"; 0 is no instance. mask_pixels count '
                    'at mask_size. Where masks overlap, pixels and points belong to the instance with the better score. '
                    'bounding_box is axis-aligned, in world coordinates of cameras.json.'}


def _place(points: np.ndarray) -> dict:
    """Return how many points (n, 3) an instance has, and the box around them."""
    box = {'min': points.min(0).tolist(), 'max': points.max(0).tolist()} if len(points) else None
    return {'points': len(points), 'bounding_box': box}


def write_glb(path: Path, scene: Reconstruction, cloud: PointCloud) -> Path:
    """Write the photo-coloured cloud and one frustum per camera, turned to glTF's axes (y up).

    Raises:
        JrsError: trimesh is not installed.
    """
    try:
        import trimesh
    except ImportError as error:
        raise JrsError('Writing scene.glb needs trimesh: pip install trimesh, '
                       'or leave it out with --no-glb.') from error
    world = trimesh.Scene(metadata={'unit': unit_in_words(scene.scale)})
    if len(cloud.points):
        world.add_geometry(trimesh.PointCloud(cloud.points, colors=cloud.colours), geom_name='points')
    size = frustum_size(cloud)
    for name, corners in zip(scene.view_names, camera_corners(scene, size), strict=True):
        rods = trimesh.util.concatenate([trimesh.creation.cylinder(size * 0.015, segment=corners[list(edge)], sections=5)
                                         for edge in FRUSTUM_EDGES])
        rods.visual.face_colors = [235, 96, 60, 255]
        world.add_geometry(rods, geom_name=f'camera {name}')
    world.apply_transform(GLTF_FROM_OPENCV)
    with atomic_write(path, 'wb') as file:
        file.write(world.export(file_type='glb'))
    return path


def write_json(path: Path, record: dict) -> Path:
    """Write strict JSON; NaN and infinity, which are no JSON, are an error that names the file."""
    try:
        text = json.dumps(record, indent=1, allow_nan=False)
    except ValueError as error:
        raise DataError(f'{path}: a value is NaN or infinite, nothing is written; the weights may be broken.') from error
    with atomic_write(path, 'w') as file:
        file.write(text + '\n')
    return path
