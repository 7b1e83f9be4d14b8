"""The scene folder: one format for every data set, one reader, one writer, one check.

    <root>/
      train.txt  val.txt  …        split lists, one scene name per line
      <scene>/                     complete or absent: written under another name, then renamed
        scene.json                 format version, source, settings, instances, cameras, frames (below)
        color/<frame>.jpg          8-bit RGB (or .png)
        depth/<frame>.png          16-bit, millimetres, 0 = no reading; depth camera's resolution
        instances/<frame>.png      16-bit instance ids at colour resolution: 0 none, 65535 ignore
        mesh.ply                   x y z (metres), red green blue, instance, superpoint, excluded; triangles

    scene.json
      format      1
      name        name of the folder
      source      who wrote it: "scannet", …
      settings    how it was prepared; a scene prepared with other settings is prepared again
      notes       what was left out or repaired, for people
      instances   [{id: 1..999, label: raw label, classes: {scannet20: 5, scannet200: 2}}]; null = not annotated
      cameras     [{color_size: [H, W], color_intrinsics: 3x3, depth_size: [H, W], depth_intrinsics: 3x3}]
      frames      [{name, index, camera, cam_from_world: 4x4}], in order of time

`index` is the frame's number in the recording: ScanNet's `.sens`, an iPhone's or another video, a room's walk, counted
from 0; of single pictures (a DSLR's, photos) their place in the order of names. Under `every: n` in `settings` numbers are
multiples of n. `camera` is a place in `cameras`. Colour and depth camera of a frame have
one pose. Ids are the same in all frames and on the mesh, and cover stuff (walls, floors) as well as things: which
classes are instances is the benchmark's affair; `classes` has its class id under the benchmark's name. Cameras are
OpenCV's, pixel centres at integers, `cam_from_world` in metres. Without `depth_size` (null) there is no depth folder;
without instances there is no `instances` folder and no such mesh property. A scene of photos has null for the intrinsics
and for `cam_from_world` of all frames, no depth, no instances and no mesh: it can be reconstructed, not trained on.
`excluded` is 1 for vertices that do not
count for scoring (ScanNet++'s mesh mask); without the property all count.
"""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np

from jrs.errors import DataError
from jrs.io.atomic import atomic_write
from jrs.io.names import MAX_NAME, MAX_SCENE_NAME, hidden_beside, readable
from jrs.io.photo import read_photo
from jrs.io.ply import read_ply, write_ply
from jrs.io.png import MAX_PIXELS, read_depth_mm, read_png16, write_png8, write_png16
from jrs.io.text import read_json, read_text

FORMAT = 1
IGNORE_PIXEL = 65535                            # in the PNG files; -1 in arrays
MAX_ID = 999                                    # instance numbers share an integer with the class id, data.md 4.3
COLOR_SUFFIXES = ('.jpg', '.png')
RGB = ('red', 'green', 'blue')


@dataclass(frozen=True)
class Camera:
    """Colour and depth camera of a frame: sizes (H, W), intrinsics (3, 3) float64 in pixels; depth may be None.

    `color_intrinsics` is None for photos, of which nothing is known.
    """

    color_size: tuple[int, int]
    color_intrinsics: np.ndarray | None
    depth_size: tuple[int, int] | None
    depth_intrinsics: np.ndarray | None

    @property
    def color_from_depth(self) -> np.ndarray:
        """The (3, 3) map of depth pixels to colour pixels: both cameras have one pose and no skew, so it is affine."""
        return self.color_intrinsics @ np.linalg.inv(self.depth_intrinsics)


@dataclass(frozen=True)
class Frame:
    """One view of a scene: file stem, number in the recording, place in `cameras`, `cam_from_world` (4, 4) float64.

    `cam_from_world` is None for photos, of which nothing is known.
    """

    name: str
    index: int
    camera: int
    cam_from_world: np.ndarray | None


@dataclass(frozen=True)
class SceneInstance:
    """One annotated object: `id` 1..999, its raw label, and its class id in each label space that knows it."""

    id: int
    label: str
    classes: dict[str, int]


@dataclass
class Mesh:
    """The labelled mesh of a scene.

    Attributes:
        vertices: (N, 3) float64 metres.
        colors: (N, 3) uint8.
        faces: (M, 3) int32.
        instances: (N,) int64 instance ids, 0 none; None where the scene is not annotated.
        superpoints: (N,) int64 0 .. S-1 without gaps; None where there are none.
        excluded: (N,) bool, vertices that do not count for scoring; None where all count.
    """

    vertices: np.ndarray
    colors: np.ndarray
    faces: np.ndarray
    instances: np.ndarray | None = None
    superpoints: np.ndarray | None = None
    excluded: np.ndarray | None = None


@dataclass
class SceneRecord:
    """What `scene.json` holds; the fields are described at the top of this module."""

    name: str
    source: str
    cameras: list[Camera]
    frames: list[Frame]
    instances: list[SceneInstance] | None
    settings: dict = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    format: int = FORMAT

    @property
    def every(self) -> int:
        """Frames whose number in the recording is a multiple of this were prepared; 1 where nothing is said."""
        return self.settings.get('every') or 1

    @property
    def has_geometry(self) -> bool:
        """Whether cameras and mesh are known; False for photos."""
        return posed(self.frames)


def posed(frames: list[Frame]) -> bool:
    """Return whether the cameras of all frames are known."""
    return all(frame.cam_from_world is not None for frame in frames)


class Scene:
    """A recording as data sets read it, lazily; a subclass reads one layout of files (`SceneDataset.open_scenes`).

    A subclass gives `frames`, `camera` and `color`; where the data have them `depth_m`, `instances` with `instance_ids`, and
    `mesh`. Without a mesh a scene is scored on the depth of its views.

    Args:
        path: folder of the recording; its last part is the scene's name.

    Attributes:
        every: frames whose number in the recording is a multiple of this are there.
    """

    every = 1

    def __init__(self, path: str | os.PathLike) -> None:
        self.path = Path(path)

    @property
    def name(self) -> str:
        """Name of the folder."""
        return self.path.name

    @property
    def frames(self) -> list[Frame]:
        """The frames in order of time."""
        raise NotImplementedError

    @property
    def has_geometry(self) -> bool:
        """Whether cameras are known; False for photos."""
        return posed(self.frames)

    @property
    def instances(self) -> list[SceneInstance] | None:
        """The annotated objects; None where nothing is annotated."""
        return None

    def camera(self, frame: Frame) -> Camera:
        """Return the camera of a frame."""
        raise NotImplementedError

    def color(self, frame: Frame) -> np.ndarray:
        """Return the colour image, (H, W, 3) uint8 RGB."""
        raise NotImplementedError

    def depth_m(self, frame: Frame) -> np.ndarray | None:
        """Return z-depth in metres at the depth camera's resolution, (Hd, Wd) float32, 0 = no reading; None without."""
        return None

    def instance_ids(self, frame: Frame) -> np.ndarray | None:
        """Return ids at colour resolution, (H, W) int32: 0 none, -1 ignore, 1 .. 999; None where nothing is annotated."""
        return None

    def mesh(self) -> Mesh | None:
        """Return the labelled mesh; None without one."""
        return None

    def version(self) -> bytes | None:
        """Return what changes when the scene's files do; None = unknown: nothing is kept beside the scene."""
        return None


class SceneFolder(Scene):
    """Reads a scene folder, lazily: `scene.json` on first use, images and mesh when asked.

    Raises:
        DataError: from any property or method when the file it needs is missing or not what the format says.
    """

    def exists(self) -> bool:
        """Whether the scene is there; if so it is complete."""
        return (self.path / 'scene.json').is_file()

    @cached_property
    def record(self) -> SceneRecord:
        """What `scene.json` holds."""
        return _read_record(self.path / 'scene.json')

    @property
    def frames(self) -> list[Frame]:
        """The frames in order of time."""
        return self.record.frames

    @property
    def every(self) -> int:
        """Frames whose number in the recording is a multiple of this were prepared."""
        return self.record.every

    @property
    def instances(self) -> list[SceneInstance] | None:
        """The annotated objects; None where nothing is annotated."""
        return self.record.instances

    def version(self) -> bytes:
        """Return `scene.json`."""
        return (self.path / 'scene.json').read_bytes()

    def camera(self, frame: Frame) -> Camera:
        """Return the camera of a frame."""
        return self.record.cameras[frame.camera]

    def color_path(self, frame: Frame) -> Path:
        """Return the file of the colour image."""
        paths = [self.path / 'color' / f'{frame.name}{suffix}' for suffix in COLOR_SUFFIXES]
        return next((path for path in paths if path.is_file()), paths[0])

    def color(self, frame: Frame) -> np.ndarray:
        """Return the colour image, (H, W, 3) uint8 RGB."""
        path = self.color_path(frame)
        if not path.is_file():
            raise DataError(f'{path}: the colour image of frame {frame.name} is missing. Prepare the scene again.')
        return _of_size(read_photo(path), self.camera(frame).color_size, path)

    def depth_m(self, frame: Frame) -> np.ndarray | None:
        """Return z-depth in metres at the depth camera's resolution, (Hd, Wd) float32, 0 = no reading; None without."""
        size = self.camera(frame).depth_size
        if size is None:
            return None
        path = self.path / 'depth' / f'{frame.name}.png'
        return _of_size(read_depth_mm(path), size, path).astype(np.float32) / np.float32(1000)

    def instance_ids(self, frame: Frame) -> np.ndarray | None:
        """Return ids at colour resolution, (H, W) int32: 0 none, -1 ignore; None where nothing is annotated."""
        if self.record.instances is None:
            return None
        path = self.path / 'instances' / f'{frame.name}.png'
        ids = _of_size(read_png16(path), self.camera(frame).color_size, path).astype(np.int32)
        return np.where(ids == IGNORE_PIXEL, np.int32(-1), ids)

    def mesh(self) -> Mesh:
        """Return the labelled mesh."""
        mesh = read_mesh(self.path / 'mesh.ply')
        ids = mesh.instances
        if ids is not None and ids.size and not 0 <= ids.min() <= ids.max() <= MAX_ID:
            raise DataError(f'{self.path / "mesh.ply"}: ids from {ids.min()} to {ids.max()}; allowed: 0 to {MAX_ID}')
        return mesh


def read_mesh(path: Path) -> Mesh:
    """Return the mesh of a PLY file: x y z, red green blue and triangles it must have, ids it may have.

    Raises:
        DataError: the file is missing, broken, or lacks one of them.
    """
    values, faces = read_ply(path)
    missing = {*'xyz', *RGB} - set(values)
    if missing or faces is None:
        raise DataError(f'{path}: lacks {sorted(missing) or "faces"}; needs x y z, red green blue and triangles.')
    instances, superpoints, excluded = (_optional(values, name, path) for name in ('instance', 'superpoint', 'excluded'))
    colors = np.stack([_integers(values, name, path) for name in RGB], axis=1)                             # (N, 3)
    if ((colors < 0) | (colors > 255)).any():
        raise DataError(f'{path}: red, green and blue must be integers in 0..255.')
    return Mesh(np.stack([values[axis] for axis in 'xyz'], axis=1).astype(np.float64),                      # (N, 3)
                colors.astype(np.uint8), faces, instances, superpoints, None if excluded is None else excluded > 0)


def _optional(values: dict[str, np.ndarray], name: str, path: Path) -> np.ndarray | None:
    return _integers(values, name, path) if name in values else None


def _integers(values: dict[str, np.ndarray], name: str, path: Path) -> np.ndarray:
    """Return a property as (N,) int64; other programs may write whole numbers as floats."""
    given = values[name]
    if given.dtype.kind == 'f' and not (np.abs(given) < 1 << 31).all() or (given != np.trunc(given)).any():
        raise DataError(f'{path}: {name} must be integers, got {given.dtype}, such as {given[:3].tolist()}.')
    return given.astype(np.int64)


def _of_size(image: np.ndarray, size: tuple[int, int], path: Path) -> np.ndarray:
    if image.shape[:2] != tuple(size):
        raise DataError(f'{path}: {image.shape[1]} x {image.shape[0]} pixels, scene.json says {size[1]} x {size[0]}. '
                        'Prepare the scene again.')
    return image


def _read_record(path: Path) -> SceneRecord:
    if not path.is_file():
        raise DataError(f'{path}: cannot be read: there is no such file. A scene folder has a scene.json; prepare the '
                        'scene with tools/prepare.py.')
    data = read_json(path)
    if not isinstance(data, dict) or data.get('format') != FORMAT:
        found = data.get('format') if isinstance(data, dict) else None
        raise DataError(f'{path}: format {found!r}; this version of jrs reads {FORMAT}. Prepare the scene again.')
    try:
        record = _parse_record(data)
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise DataError(f'{path}: an entry is missing or has the wrong type ({error!r}).') from error
    _check_instances(record, path)
    _check_cameras(record, path)
    return record


def _parse_record(data: dict) -> SceneRecord:
    cameras = [Camera(_size(item['color_size']), _matrix(item['color_intrinsics'], 3),
                      None if item['depth_size'] is None else _size(item['depth_size']),
                      _matrix(item['depth_intrinsics'], 3)) for item in data['cameras']]
    frames = [Frame(_file_stem(item['name']), _whole(item['index']), _whole(item['camera']),
                    _matrix(item['cam_from_world'], 4)) for item in data['frames']]
    instances = data['instances']
    if instances is not None:
        instances = [SceneInstance(_whole(item['id']), str(item['label']),
                                   {str(space): _whole(number) for space, number in item['classes'].items()})
                     for item in instances]
    settings = dict(data['settings'])
    if settings.get('every') is not None and _whole(settings['every']) < 1:
        raise ValueError(f'settings.every must be at least 1, got {settings["every"]}')
    return SceneRecord(str(data['name']), str(data['source']), cameras, frames, instances, settings, list(data['notes']))


def _whole(value: int) -> int:
    if type(value) is not int or abs(value) >= 1 << 31:
        raise ValueError(f'{str(value)[:40]!r} is not a whole number, or is too large')
    return value


def _size(sides: list) -> tuple[int, int]:
    height, width = map(_whole, sides)
    if min(height, width) < 1 or height * width > MAX_PIXELS:
        raise ValueError(f'an image of {height} x {width} cannot be read; at most {MAX_PIXELS} pixels are allowed')
    return height, width


def _file_stem(name: str) -> str:
    if not isinstance(name, str) or not _is_plain(name):
        raise ValueError(f'{str(name)[:40]!r} cannot name a file')
    return name


def _is_plain(name: str) -> bool:
    """Whether a name that data give is that of a file or folder, and of none outside the one that it is looked up in."""
    return name not in ('', '.', '..') and not set(name) & set('/\\\0') and len(os.fsencode(name)) <= MAX_NAME


def _matrix(rows: list | None, side: int) -> np.ndarray | None:
    if rows is None:
        return None
    matrix = np.array(rows, np.float64)
    if matrix.shape != (side, side):
        raise ValueError(f'a matrix must be {side} x {side}, got {matrix.shape}')
    return matrix


class SceneWriter:
    """Writes a scene folder that appears whole or not at all; a context manager.

    Everything goes to a hidden folder beside the final one. `finish` renames it, replacing an older scene; leaving the
    block without it deletes the hidden folder.

    Args:
        root: folder of the data set.
        name: name of the scene.
    """

    def __init__(self, root: str | os.PathLike, name: str) -> None:
        self.final = Path(root) / name
        self.folder, self.replaced = hidden_beside(self.final, 'part'), hidden_beside(self.final, 'old')

    def __enter__(self) -> SceneWriter:
        self._clean()                                                       # what a killed run left
        for part in ('color', 'depth', 'instances'):
            (self.folder / part).mkdir(parents=True)
        return self

    def __exit__(self, *_) -> None:
        self._clean()

    def _clean(self) -> None:
        for folder in (self.folder, self.replaced):
            shutil.rmtree(folder, ignore_errors=True)

    def color(self, name: str, encoded: bytes, suffix: str = '.jpg') -> None:
        """Write an encoded colour image, byte for byte."""
        (self.folder / 'color' / f'{name}{suffix}').write_bytes(encoded)

    def color_pixels(self, name: str, image: np.ndarray) -> None:
        """Write a colour image (H, W, 3) uint8 without loss."""
        write_png8(self.folder / 'color' / f'{name}.png', image)

    def depth(self, name: str, depth_mm: np.ndarray) -> None:
        """Write depth (H, W) uint16 in millimetres."""
        write_png16(self.folder / 'depth' / f'{name}.png', depth_mm)

    def instances(self, name: str, ids: np.ndarray) -> None:
        """Write ids (H, W): 0 none, -1 ignore."""
        write_png16(self.folder / 'instances' / f'{name}.png', np.where(ids < 0, IGNORE_PIXEL, ids).astype(np.uint16))

    def mesh(self, mesh: Mesh) -> None:
        """Write the labelled mesh."""
        write_mesh(self.folder / 'mesh.ply', mesh)

    def finish(self, record: SceneRecord) -> None:
        """Write `scene.json` and give the folder its final name."""
        if record.instances is None:
            (self.folder / 'instances').rmdir()
        if not any(camera.depth_size for camera in record.cameras):
            (self.folder / 'depth').rmdir()
        write_record(self.folder / 'scene.json', record)
        if self.final.exists():
            os.replace(self.final, self.replaced)                           # a kill now leaves the scene absent
        os.replace(self.folder, self.final)


def write_mesh(path: Path, mesh: Mesh) -> None:
    """Write a labelled mesh as `read_mesh` reads it."""
    values = {axis: mesh.vertices[:, column].astype(np.float32) for column, axis in enumerate('xyz')}
    values |= {name: mesh.colors[:, column].astype(np.uint8) for column, name in enumerate(RGB)}
    for name, ids in (('instance', mesh.instances), ('superpoint', mesh.superpoints)):
        if ids is not None:
            values[name] = ids.astype(np.int32)
    if mesh.excluded is not None:
        values['excluded'] = mesh.excluded.astype(np.uint8)
    write_ply(path, values, mesh.faces)


def write_record(path: Path, record: SceneRecord) -> None:
    """Write `scene.json`."""
    text = json.dumps(asdict(record), default=np.ndarray.tolist, ensure_ascii=False)
    with atomic_write(path, 'w') as file:
        file.write(text + '\n')


def check_scene_name(name: str, advice: str) -> None:
    """Raise a DataError, which ends in `advice`, where a scene of that name could not stand in a list of scenes."""
    if not name or name.startswith('.') or set(name) & set('/\\') or any(character.isspace() for character in name) \
            or readable(name) != name or len(name.encode()) > MAX_SCENE_NAME:
        raise DataError(f'A scene cannot be named {name!r}: a name is at most {MAX_SCENE_NAME} bytes of text, without '
                        f'spaces and slashes, and begins with no dot. {advice}')


def read_split(root: str | os.PathLike, split: str) -> list[str] | None:
    """Return the scene names of `<root>/<split>.txt`; None where there is no such list.

    Raises:
        DataError: the list is no text, or a name leads out of `root`.
    """
    path = Path(root) / f'{split}.txt'
    if not path.is_file():
        return None
    names = [line.strip() for line in read_text(path).splitlines() if line.strip()]
    wrong = [name for name in names if not _is_plain(name)]
    if wrong:
        raise DataError(f'{path}: {wrong[0][:80]!r} is not the name of a folder beside the list.')
    return names


def check_scene(path: str | os.PathLike) -> None:
    """Read every file of a scene folder and raise a DataError that explains the first fault."""
    scene = SceneFolder(path)
    record = scene.record
    where = scene.path / 'scene.json'
    if record.name != scene.name:
        raise DataError(f'{where}: the scene is named {record.name!r}, its folder {scene.name!r}.')
    _check_frames(record, where)
    known = {0, *(item.id for item in record.instances or [])}
    _check_counts(scene)
    for frame in record.frames:
        scene.color(frame)
        scene.depth_m(frame)
        ids = scene.instance_ids(frame)
        if ids is not None:
            _check_known(ids, known | {-1}, scene.path / 'instances' / f'{frame.name}.png')
    if record.has_geometry:
        _check_mesh(scene, known)


def _check_instances(record: SceneRecord, where: Path) -> None:
    ids = [item.id for item in record.instances or []]
    wrong = [number for number in ids if not 1 <= number <= MAX_ID]
    if wrong or len(set(ids)) != len(ids):
        raise DataError(f'{where}: instance ids must be different and in 1..{MAX_ID}, got {wrong or sorted(ids)}.')


def _check_cameras(record: SceneRecord, where: Path) -> None:
    for number, camera in enumerate(record.cameras):
        for what in ('color', 'depth'):
            _check_intrinsics(getattr(camera, f'{what}_intrinsics'), f'{where}: cameras[{number}].{what}_intrinsics')
        if camera.depth_size is not None and (camera.depth_intrinsics is None or camera.color_intrinsics is None):
            raise DataError(f'{where}: cameras[{number}] has depth, and lacks intrinsics.')
    for frame in record.frames:
        if not 0 <= frame.camera < len(record.cameras):
            raise DataError(f'{where}: frame {frame.name} has camera {frame.camera} of {len(record.cameras)}.')


def _check_frames(record: SceneRecord, where: Path) -> None:
    if not record.frames:
        raise DataError(f'{where}: the scene has no frames.')
    indices = [frame.index for frame in record.frames]
    if sorted(set(indices)) != indices or len({frame.name for frame in record.frames}) != len(indices):
        raise DataError(f'{where}: frames must have rising indices and different names.')
    if record.has_geometry:
        for frame in record.frames:
            _check_pose(frame.cam_from_world, f'{where}: frame {frame.name}')
    else:
        _check_photos(record, where)


def _check_photos(record: SceneRecord, where: Path) -> None:
    known = [frame.name for frame in record.frames if frame.cam_from_world is not None]
    if known or record.instances is not None or any(camera.depth_size or camera.color_intrinsics is not None
                                                    for camera in record.cameras):
        raise DataError(f'{where}: where a frame has no cam_from_world, none may have one, and there can be no intrinsics, '
                        f'depth or instances. Frames with one: {known[:5]}.')


def _check_intrinsics(matrix: np.ndarray | None, where: str) -> None:
    if matrix is None:
        return
    expected = np.array([[matrix[0, 0], 0, matrix[0, 2]], [0, matrix[1, 1], matrix[1, 2]], [0, 0, 1]])
    if not np.isfinite(matrix).all() or min(matrix[0, 0], matrix[1, 1]) <= 0 or (matrix != expected).any():
        raise DataError(f'{where} must be [fx 0 cx; 0 fy cy; 0 0 1] with positive fx, fy, got {matrix.tolist()}.')


def _check_pose(cam_from_world: np.ndarray, where: str) -> None:
    if not np.isfinite(cam_from_world).all():
        raise DataError(f'{where}: cam_from_world is not finite; such frames must be dropped.')
    if not is_rigid(cam_from_world):
        raise DataError(f'{where}: cam_from_world is not a rotation and a shift: {cam_from_world.tolist()}.')


def is_rigid(matrix: np.ndarray) -> bool:
    """Whether a (4, 4) matrix is finite and, within 1 %, a rotation and a shift."""
    if not np.isfinite(matrix).all():
        return False
    rotation = matrix[:3, :3]
    off = np.abs(rotation @ rotation.T - np.eye(3)).max()
    return bool(off < 1e-2 and np.linalg.det(rotation) > 0 and np.allclose(matrix[3], [0, 0, 0, 1]))


def _check_counts(scene: SceneFolder) -> None:
    folders = ['color']
    folders += ['depth'] if any(camera.depth_size for camera in scene.record.cameras) else []
    folders += ['instances'] if scene.record.instances is not None else []
    names = {frame.name for frame in scene.frames}
    for folder in folders:
        there = {path.stem for path in (scene.path / folder).glob('*')}
        if there != names:
            missing, extra = sorted(names - there), sorted(there - names)
            raise DataError(f'{scene.path / folder}: {len(there)} files for {len(names)} frames; missing '
                            f'{missing[:5]}, not in scene.json {extra[:5]}. Prepare the scene again.')


def _check_known(ids: np.ndarray, known: set[int], where: Path) -> None:
    strange = sorted(set(np.unique(ids).tolist()) - known)
    if strange:
        raise DataError(f'{where}: ids {strange[:5]} are not in the table of instances of scene.json.')


def _check_mesh(scene: SceneFolder, known: set[int]) -> None:
    path = scene.path / 'mesh.ply'
    mesh = scene.mesh()
    if not np.isfinite(mesh.vertices).all():
        raise DataError(f'{path}: a vertex is not finite.')
    if (mesh.instances is None) != (scene.record.instances is None):
        raise DataError(f'{path}: the mesh and scene.json disagree on whether the scene is annotated.')
    if mesh.instances is not None:
        _check_known(mesh.instances, known, path)
    if mesh.superpoints is not None:
        used = np.unique(mesh.superpoints)
        if not np.array_equal(used, np.arange(len(used))):
            raise DataError(f'{path}: superpoints must be 0..S-1 without gaps, got {used[0]}..{used[-1]}, {len(used)} '
                            'different.')
