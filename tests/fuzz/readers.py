"""Every reader of files that others made: where its file lies, sound examples by our own writers, and what is read.

`test_mutated_files.py` damages the examples, `run.py` searches from them, guided by coverage. Whatever the bytes are, a
reader must give a result or raise a JrsError.
"""

from __future__ import annotations

import io
import json
import struct
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import torch
from PIL import Image

from jrs.cli.convert import read_key_list
from jrs.config import parse_override
from jrs.datasets.scene import (
    Camera,
    Frame,
    Mesh,
    SceneFolder,
    SceneInstance,
    SceneRecord,
    SceneWriter,
    check_scene,
    read_mesh,
    read_split,
)
from jrs.io import scannet
from jrs.io.colmap import read_lenses, read_poses
from jrs.io.frames import ExportedFrames
from jrs.io.images import count_frames
from jrs.io.instance_zip import InstanceZip
from jrs.io.lidar_depth import LidarDepth
from jrs.io.photo import read_photo
from jrs.io.ply import read_ply, write_ply
from jrs.io.png import SIGNATURE, decode_png16, encode_jpeg, encode_png8, write_png16
from jrs.io.scannetpp import read_label_map, read_transforms
from jrs.io.sens import IMU, SensFrame, SensHeader, SensReader, encode_depth, write_sens
from jrs.io.submission import (
    FORMATS,
    SceneSubmission,
    read_run_lengths,
    read_submission,
    read_vertex_numbers,
    write_run_lengths,
    write_submission,
    write_vertex_numbers,
)
from jrs.io.submission_arrays import read_submission_arrays, write_submission_arrays
from jrs.io.tensor_file import write_tensors
from jrs.io.vocabulary import Vocabulary, read_vocabulary, write_vocabulary
from jrs.io.weights import encode_metadata, read_metadata, read_state
from tests.io._tiff import write_png, write_tiff

PICTURE = np.arange(4 * 6 * 3, dtype=np.uint8).reshape(4, 6, 3) * 3
DEPTH = np.arange(24, dtype=np.uint16).reshape(4, 6) * 400
CORNERS = np.array([[0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1]], np.float32)
FACES = np.array([[0, 1, 2], [0, 2, 3]])
SCENE = 'scene0000_00'


@dataclass(frozen=True)
class Reader:
    """One reader.

    Attributes:
        file: path of the file under test, inside a folder of its own.
        read: called with that path; reads all that a user of the file would.
        examples: returns sound files; called with an empty folder to write in.
        around: writes the other files that the reader wants, into the folder.
        pack: makes the file of the bytes under test, where they are only a part of it.
    """

    file: str
    read: Callable[[Path], object]
    examples: Callable[[Path], list[bytes]]
    around: Callable[[Path], object] = lambda folder: None
    pack: Callable[[bytes], bytes] = bytes

    def prepare(self, folder: Path) -> Path:
        """Write what stands around the file; return where the file goes."""
        self.around(folder)
        path = folder / self.file
        path.parent.mkdir(parents=True, exist_ok=True)
        return path

    def try_on(self, data: bytes, path: Path) -> object:
        """Read `data`; `path` is from `prepare`."""
        path.write_bytes(self.pack(data))
        return self.read(path)

    def sound(self) -> list[bytes]:
        """Return the examples."""
        with tempfile.TemporaryDirectory() as folder:
            return self.examples(Path(folder))


def written(*writers: Callable[[Path], object]) -> Callable[[Path], list[bytes]]:
    """Return `examples` of functions that write a file each."""
    def examples(folder: Path) -> list[bytes]:
        for number, write in enumerate(writers):
            write(folder / str(number))
        return [(folder / str(number)).read_bytes() for number in range(len(writers))]
    return examples


def _sens(version: int, color: str, depth: str) -> Callable[[Path], None]:
    header = SensHeader(np.eye(4), np.eye(4), (4, 6), (4, 6), color_compression=color, depth_compression=depth,
                        version=version, sensor_name='s')
    colors = {'raw': PICTURE.tobytes(), 'png': encode_png8(PICTURE), 'jpeg': encode_jpeg(PICTURE)}
    depths = {'raw': DEPTH.tobytes(), 'zlib': encode_depth(DEPTH)}
    return lambda path: write_sens(path, header, [SensFrame(np.eye(4), colors[color], depths[depth], 1, 2)] * 2,
                                   np.zeros(1, IMU))


def _read_sens(path: Path) -> None:
    with SensReader(path) as reader:
        reader.tracked.sum()
        for index in range(min(len(reader), 2)):
            color, depth = reader.color(index), reader.depth(index)
            assert (color.shape[:2], depth.shape) == (reader.header.color_size, reader.header.depth_size)


ASCII_PLY = b"""ply
format ascii 1.0
comment of a person
element vertex 4
property float x
property float y
property float z
property uchar red
property uchar green
property uchar blue
property int instance
element face 2
property uchar quality
property list uchar int vertex_indices
end_header
0 0 0 1 2 3 7
1 0 0 1 2 3 7
0 1 0 1 2 3 0
0 0 1 1 2 3 0
9 3 0 1 2
9 4 0 1 2 3
"""
POLYGONS = b'ply\nformat binary_big_endian 1.0\nelement vertex 4\nproperty uchar x\nproperty short y\nproperty double z\n' \
    b'element face 2\nproperty list ushort uint vertex_indices\nproperty float quality\nend_header\n' \
    + b''.join(struct.pack('>Bhd', *row) for row in (CORNERS * 2).astype(int)) \
    + struct.pack('>H3If', 3, 0, 1, 2, 0.5) + struct.pack('>H4If', 4, 0, 1, 2, 3, 0.5)


def _mesh_columns() -> dict[str, np.ndarray]:
    grey = np.full(4, 9, np.uint8)
    return {'x': CORNERS[:, 0], 'y': CORNERS[:, 1], 'z': CORNERS[:, 2], 'red': grey, 'green': grey, 'blue': grey,
            'instance': np.array([1, 1, 0, 0], np.int32), 'superpoint': np.array([0, 0, 1, 1], np.int32),
            'excluded': np.array([0, 0, 1, 0], np.uint8)}


def _read_mesh(path: Path) -> None:
    mesh = read_mesh(path)
    assert mesh.colors.shape == mesh.vertices.shape and mesh.faces.shape[1:] == (3,)


def chunked(data: bytes) -> bytes:
    """Return a PNG whose chunks are cut from `data` (4 bytes of kind, 1 of length, content), with right sums."""
    chunks, at = [], 0
    while at + 5 <= len(data):
        kind, length = data[at:at + 4], data[at + 4]
        content = data[at + 5:at + 5 + length]
        content = zlib.compress(content) if kind == b'IDAT' else content
        chunks.append(struct.pack('>I', len(content)) + kind + content + struct.pack('>I', zlib.crc32(kind + content)))
        at += 5 + length
    return SIGNATURE + b''.join(chunks)


def _png_parts(bits: int, kind: int) -> bytes:
    rows = bytes([0, *range(6 * bits // 8)]) * 4
    return b''.join(name + bytes([len(data)]) + data for name, data in (
        (b'IHDR', struct.pack('>IIBBBBB', 6, 4, bits, kind, 0, 0, 0)), (b'IDAT', rows), (b'IEND', b'')))


def _photo(kind: str, mode: str = 'RGB', **options) -> Callable[[Path], None]:
    return lambda path: Image.fromarray(PICTURE).convert(mode).save(path, kind, **options)


def _exif() -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = 6                                                        # turn by 90 degrees
    return exif


def _read_color(path: Path) -> None:
    frames = ExportedFrames(path.parents[1])
    frames.color(0)


def _payloads(*frames: bytes) -> Callable[[Path], None]:
    return lambda path: path.write_bytes(b''.join(struct.pack('<I', len(frame)) + frame for frame in frames))


def _deflate(data: bytes) -> bytes:
    stream = zlib.compressobj(9, wbits=-15)
    return stream.compress(data) + stream.flush()


ZEROS_LZ4 = b'\x1f\x00\x01\x00' + b'\xff' * 385 + b'\x68\x50' + bytes(5)    # 192 * 256 * 2 zero bytes
METRES = np.full((192, 256), 1.5, '<f4').tobytes()


def _read_lidar(path: Path) -> None:
    depth = LidarDepth(path)
    try:
        for index in range(2):
            assert depth.depth_mm(index).shape == (192, 256)
    finally:
        depth.close()


METADATA = {'axisAlignment': np.eye(4), 'colorHeight': 968.0, 'fx_color': 1170.187988, 'numColorFrames': 1513.0,
            'sceneType': 'Bedroom / Hotel'}
GROUPS = [scannet.SegmentGroup(0, 'chair', (3, 5)), scannet.SegmentGroup(1, 'table', (9,))]
LABELS = {'chair': scannet.LabelRow(2, 5, 'chair'), 'office chair': scannet.LabelRow(10, 5, 'chair')}
TRANSFORMS = {'camera_model': 'OPENCV_FISHEYE', 'fl_x': 9.0, 'fl_y': 9.0, 'cx': 3, 'cy': 2, 'k1': 0.1, 'k2': 0, 'k3': 0,
              'k4': 0, 'w': 6, 'h': 4,
              'frames': [{'file_path': 'a.JPG', 'transform_matrix': np.eye(4).tolist(), 'is_bad': False}],
              'test_frames': [{'file_path': 'b.JPG', 'transform_matrix': np.eye(4).tolist()}]}


def _texts(*texts: str) -> Callable[[Path], list[bytes]]:
    return lambda folder: [text.encode() for text in texts]


def _read_groups(path: Path) -> None:
    scannet.repeated_objects(path)
    scannet.vertex_objects(np.array([3, 5, 9, 11]), scannet.read_aggregation(path))


PREDICTIONS = SceneSubmission(np.packbits(np.array([[1, 0, 1], [0, 1, 1]], bool), axis=1), np.array([2, 39]),
                              np.array([0.9, 0.25]), 3)


def _predictions(layout: str, part: str) -> Callable[[Path], list[bytes]]:
    def examples(folder: Path) -> list[bytes]:
        write_submission(folder, SCENE, FORMATS[layout], PREDICTIONS)
        return [path.read_bytes() for path in sorted(folder.glob(part))]
    return examples


def _around_predictions(layout: str) -> Callable[[Path], object]:
    return _predictions(layout, '*.txt')


def _read_predictions(layout: str) -> Callable[[Path], None]:
    def read(path: Path) -> None:
        found = read_submission(path.parent, SCENE, FORMATS[layout], 3)
        assert len(found.labels) == len(found.scores) == len(found.masks)
    return read


def _read_arrays(path: Path) -> None:
    found = read_submission_arrays(path, FORMATS['scannet'], 3)
    assert len(found.labels) == len(found.scores) == len(found.masks)


def _plain_arrays(path: Path) -> None:
    with path.open('wb') as file:
        np.savez(file, masks=np.array([[1, 0, 1], [0, 1, 1]], np.uint8).T, classes=np.array([2., 39]), scores=np.ones(2))


def _zip(kind: int) -> Callable[[Path], None]:
    def write(path: Path) -> None:
        write_png16(path.with_suffix('.png'), DEPTH)
        with zipfile.ZipFile(path, 'w', kind) as target:
            for number in (0, 20):
                target.writestr(f'instance-filt/{number}.png', path.with_suffix('.png').read_bytes())
    return write


def _read_zip(path: Path) -> None:
    with InstanceZip(path) as images:
        images.ids(0)
        images.ids(20)


TENSORS = {'a.weight': torch.arange(6.0).reshape(2, 3), 'b': torch.zeros(2, dtype=torch.bfloat16), 'c': torch.tensor(3)}
CARD = {'origin': 'a test', 'licence': 'Apache-2.0', 'lora': {'rank': 4, 'alpha': 8.0}, 'num_classes': 18}


def _read_weights(path: Path) -> None:
    sum(tensor.numel() for tensor in read_state(path).ours.values())
    read_metadata(path)


def pack_checkpoint(pickled: bytes) -> bytes:
    """Return a file of torch.save whose pickle is `pickled`, with one storage of 24 bytes."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, 'w') as target:
        for name, data in (('data.pkl', pickled), ('byteorder', b'little'), ('data/0', bytes(24)), ('version', b'3\n')):
            target.writestr(f'archive/{name}', data)
    return stream.getvalue()


def _checkpoint(path: Path) -> None:
    torch.save({'model': TENSORS}, path)


def _pickles(folder: Path) -> list[bytes]:
    found, weights = [], {'module.a': torch.arange(6.0), 'epoch': 3}
    for number, beside in enumerate(({}, {'args': [1, 2.5, 'text', None, (True,)]})):
        torch.save({'model': weights, **beside}, folder / f'{number}.pt')
        with zipfile.ZipFile(folder / f'{number}.pt') as archive:
            found.append(next(archive.read(name) for name in archive.namelist() if name.endswith('data.pkl')))
    return found


def scene_record() -> SceneRecord:
    """Return the record of a scene of one frame that has everything."""
    intrinsics = np.array([[9.0, 0, 2.5], [0, 9.0, 1.5], [0, 0, 1]])
    return SceneRecord(SCENE, 'test', [Camera((4, 6), intrinsics, (4, 6), intrinsics)], [Frame('0', 0, 0, np.eye(4))],
                       [SceneInstance(1, 'chair', {'scannet20': 5})], {'every': 20}, ['a note'])


def write_scene(folder: Path) -> None:
    """Write a scene folder of one frame that has everything into `folder`."""
    columns = _mesh_columns()
    with SceneWriter(folder, SCENE) as writer:
        writer.color('0', encode_jpeg(PICTURE))
        writer.depth('0', DEPTH)
        writer.instances('0', np.eye(4, 6, dtype=np.int32))
        writer.mesh(Mesh(CORNERS.astype(float), np.stack([columns[name] for name in ('red', 'green', 'blue')], 1), FACES,
                         columns['instance'], columns['superpoint'], columns['excluded'] > 0))
        writer.finish(scene_record())


def _scene_json(folder: Path) -> list[bytes]:
    write_scene(folder)
    sound = json.loads((folder / SCENE / 'scene.json').read_text())
    photos = sound | {'instances': None, 'cameras': [{'color_size': [4, 6], 'color_intrinsics': None, 'depth_size': None,
                                                      'depth_intrinsics': None}],
                      'frames': [sound['frames'][0] | {'cam_from_world': None}]}
    return [json.dumps(record).encode() for record in (sound, photos)]


def _read_scene(path: Path) -> None:
    scene = SceneFolder(path.parent)
    for frame in scene.frames:
        inside = scene.color_path(frame).resolve().is_relative_to(scene.path.resolve())
        assert inside, f'frame {frame.name!r} leaves the scene folder'
        scene.camera(frame)
        len(scene.instances or ())                             # None: not annotated
    check_scene(path.parent)


def _video(path: Path) -> None:
    target = cv2.VideoWriter(str(path) + '.avi', cv2.VideoWriter_fourcc(*'MJPG'), 5, (32, 16))
    for value in (0, 128, 255):
        target.write(np.full((16, 32, 3), value, np.uint8))
    target.release()
    Path(str(path) + '.avi').rename(path)


WORDS = Vocabulary(('chair', 'fire extinguisher'), torch.tensor([[1.0, 0.5], [0.0, 2.0]]), 'clip', 'by hand', 'a {}')


def _words(suffix: str) -> Callable[[Path], list[bytes]]:
    return lambda folder: [path.read_bytes() for path in write_vocabulary(folder / 'words.yaml', WORDS)
                           if path.suffix == suffix]


def _write_words(folder: Path) -> None:
    write_vocabulary(folder / 'words.yaml', WORDS)


def _write_words_of_arrays(folder: Path) -> None:
    _write_words(folder)
    text = (folder / 'words.yaml').read_text()
    (folder / 'words.yaml').write_text(text.replace('words.safetensors', 'words.npz'))


def _arrays_of_words(path: Path) -> None:
    with path.open('wb') as file:
        np.savez(file, names=list(WORDS.names), embeddings=WORDS.embeddings.numpy())


def _read_words(path: Path) -> None:
    found = read_vocabulary(path.with_suffix('.yaml'))
    assert len(found.names) == len(found.embeddings) and found.embeddings.isfinite().all()


READERS = {
    'sens': Reader('a.sens', _read_sens, written(_sens(4, 'jpeg', 'zlib'), _sens(3, 'raw', 'raw'), _sens(4, 'png', 'zlib'))),
    'ply': Reader('a.ply', read_ply, lambda folder: [ASCII_PLY, POLYGONS]),
    'mesh': Reader('mesh.ply', _read_mesh, lambda folder: [
        *written(lambda path: write_ply(path, _mesh_columns(), FACES))(folder), ASCII_PLY]),
    'png16': Reader('0.png', lambda path: decode_png16(path.read_bytes(), str(path)),
                    written(lambda path: write_png16(path, DEPTH))),
    'png16 with right sums': Reader('0.png', lambda path: decode_png16(path.read_bytes(), str(path)),
                                    lambda folder: [_png_parts(16, 0), _png_parts(8, 0)], pack=chunked),
    'photo': Reader('photo.jpg', read_photo, written(
        _photo('PNG'), _photo('PNG', 'RGBA'), _photo('PNG', 'P'), _photo('JPEG', exif=_exif()), _photo('JPEG', 'CMYK'),
        _photo('WEBP'), _photo('BMP'), _photo('TIFF'), _photo('TIFF', 'L', compression='tiff_lzw'), _photo('GIF', 'P'),
        lambda path: write_tiff(path, PICTURE.astype(np.uint16) * 257, 2),
        lambda path: write_tiff(path, np.float32(PICTURE[..., 0]) / 255),
        lambda path: write_png(path, PICTURE.astype(np.uint16) * 257))),
    'picture of an exported frame': Reader('color/0.jpg', _read_color, written(_photo('JPEG'), _photo('PNG'))),
    'video': Reader('walk.avi', count_frames, written(_video)),
    'lidar depth': Reader('depth.bin', _read_lidar, written(
        _payloads(ZEROS_LZ4, _deflate(METRES)), lambda path: path.write_bytes(_deflate(METRES * 2)))),
    'scannet metadata': Reader('a.txt', scannet.read_metadata, written(lambda path: scannet.write_metadata(path, METADATA))),
    'scannet matrix': Reader('0.txt', scannet.read_matrix, _texts('1 0 0 0\n0 1 0 0\n0 0 1 0\n0 0 0 1\n', '-inf ' * 16)),
    'scannet segments': Reader('segs.json', scannet.read_segments, written(
        lambda path: scannet.write_segments(path, SCENE, np.array([3, 3, 5, 9])))),
    'scannet aggregation': Reader('aggregation.json', _read_groups, written(
        lambda path: scannet.write_aggregation(path, SCENE, GROUPS))),
    'scannet label table': Reader('labels.tsv', scannet.read_label_table, written(
        lambda path: scannet.write_label_table(path, LABELS))),
    'scannet split list': Reader('scannetv2_val.txt', scannet.read_list, written(
        lambda path: scannet.write_list(path, ['scene0000_00', 'scene0011_00']))),
    'split list': Reader('val.txt', lambda path: read_split(path.parent, 'val'), _texts('scene0000_00\nscene0011_00\n')),
    'colmap cameras': Reader('cameras.txt', read_lenses, _texts(
        '# comment\n1 OPENCV 640 480 500 501 320 240 0.1 -0.2 0.003 0.004\n2 SIMPLE_PINHOLE 10 20 30 5 10\n')),
    'colmap images': Reader('images.txt', read_poses, _texts('# h\n5 0.5 0.5 0.5 0.5 1 2 3 1 frame_0.jpg\n\n'
                                                             '6 1 0 0 0 4 5 6 1 b.jpg\n1 2 3 4 5 6\n')),
    'scannetpp transforms': Reader('transforms.json', read_transforms, _texts(json.dumps(TRANSFORMS))),
    'scannetpp label map': Reader('map.csv', read_label_map, _texts(
        'class,count,semantic_map_to,instance_map_to\ntable,9,,\n"desk, big",3,table,table\nwall,1,,None\n')),
    'vertex numbers': Reader('0.txt', read_vertex_numbers, written(
        lambda path: write_vertex_numbers(path, np.array([2001, 0, 39002])), lambda path: path.write_bytes(b'1\n0\n1\n'))),
    'run lengths': Reader('0.json', read_run_lengths, written(lambda path: write_run_lengths(path, np.arange(9) % 4 > 1))),
    'predictions': Reader(f'{SCENE}.txt', _read_predictions('scannet'), _predictions('scannet', '*.txt'),
                          _around_predictions('scannet')),
    'predictions of scannetpp': Reader(f'{SCENE}.txt', _read_predictions('scannetpp'), _predictions('scannetpp', '*.txt'),
                                       _around_predictions('scannetpp')),
    'predictions as arrays': Reader(f'{SCENE}.npz', _read_arrays, written(
        lambda path: write_submission_arrays(path, PREDICTIONS), _plain_arrays)),
    'instance zip': Reader('a.zip', _read_zip, written(_zip(zipfile.ZIP_DEFLATED), _zip(zipfile.ZIP_STORED))),
    'safetensors': Reader('w.safetensors', _read_weights, written(
        lambda path: write_tensors(path, TENSORS, encode_metadata(CARD)))),
    'checkpoint': Reader('w.pt', _read_weights, written(_checkpoint)),
    'pickle in a checkpoint': Reader('w.pt', _read_weights, _pickles, pack=pack_checkpoint),
    'key list': Reader('keys.txt', read_key_list, _texts(
        '# c\naggregator.blocks.{0..2}.norm.weight (2048,)\nb.{0,3}.c [3, 2]\n')),
    'vocabulary': Reader('words.yaml', _read_words, _words('.yaml'), _write_words),
    'embeddings': Reader('words.safetensors', _read_words, _words('.safetensors'), _write_words),
    'embeddings as arrays': Reader('words.npz', _read_words, written(_arrays_of_words), _write_words_of_arrays),
    'scene.json': Reader(f'{SCENE}/scene.json', _read_scene, _scene_json, write_scene),
    'override': Reader('override', lambda path: parse_override(path.read_bytes().decode('utf-8', 'replace')), _texts(
        'train.iterations=500', 'batches.views=(2, 24)', "model.alignment={'type': 'JensenShannon'}", 'a.b=[-2e3, None]')),
}


def corpus() -> Iterator[tuple[str, Path]]:
    """Yield (reader, file) of what the search found worth keeping: `tests/corpus/<reader>/`."""
    for folder in sorted((Path(__file__).parents[1] / 'corpus').glob('*/')):
        for path in sorted(folder.iterdir()):
            yield folder.name.replace('_', ' '), path
