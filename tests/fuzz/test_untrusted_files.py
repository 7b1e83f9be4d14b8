"""Files from strangers: what a header claims is checked before it is believed, names stay inside, nothing in a file runs."""

from __future__ import annotations

import ast
import json
import os
import pickle
import struct
import time
import zipfile
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch

from jrs.cli.convert import read_key_list
from jrs.datasets.scene import SceneFolder, read_split
from jrs.errors import JrsError
from jrs.io.colmap import read_lenses
from jrs.io.instance_zip import InstanceZip
from jrs.io.lidar_depth import LidarDepth
from jrs.io.photo import read_photo
from jrs.io.ply import read_ply
from jrs.io.png import read_png16
from jrs.io.sens import SensReader
from jrs.io.submission import FORMATS, read_run_lengths, read_submission, read_vertex_numbers
from jrs.io.weights import read_metadata, read_state
from tests.fuzz.limits import limited
from tests.fuzz.readers import READERS, SCENE, chunked, scene_record, write_scene

ROOT = Path(__file__).resolve().parents[2]
HUGE = 10 ** 12


def deflated(data: bytes, repeats: int) -> bytes:
    """Return a raw deflate stream of `data` many times, made without holding them."""
    stream = zlib.compressobj(9, wbits=-15)
    return b''.join(stream.compress(data) for _ in range(repeats)) + stream.flush()


def counted(payload: bytes) -> bytes:
    return struct.pack('<I', len(payload)) + payload


def ply(elements: str, kind: str = 'binary_little_endian') -> bytes:
    return f'ply\nformat {kind} 1.0\n{elements}\nend_header\n'.encode() + bytes(64)


def png(width: int, height: int) -> bytes:
    parts = (b'IHDR', struct.pack('>IIBBBBB', width, height, 16, 0, 0, 0, 0)), (b'IDAT', bytes(99)), (b'IEND', b'')
    return chunked(b''.join(name + bytes([len(data)]) + data for name, data in parts))


def sens(count: int = 2, sides: tuple = (6, 4, 6, 4), name: int = 1, payload: int | None = None) -> bytes:
    data = struct.pack('<IQ', 4, name) + b's' + bytes(256) + struct.pack('<2i4IfQ', 2, 1, *sides, 1000.0, count)
    return data + bytes(80) + struct.pack('<QQ', payload or 0, 0) + bytes(96)


def safetensors(shape: list, end: int, length: int | None = None) -> bytes:
    text = json.dumps({'a': {'dtype': 'F32', 'shape': shape, 'data_offsets': [0, end]}}).encode()
    return struct.pack('<Q', len(text) if length is None else length) + text + bytes(64)


def scene_json(**changes) -> bytes:
    return json.dumps(vars(scene_record()) | {'cameras': [], 'frames': [], 'instances': None} | changes).encode()


def camera(size: list) -> dict:
    return dict(color_size=size, color_intrinsics=None, depth_size=None, depth_intrinsics=None)


def zip_of(path: Path, content: bytes, repeats: int = 1, kind: int = zipfile.ZIP_DEFLATED) -> bytes:
    with zipfile.ZipFile(path, 'w', kind) as target, target.open('instance-filt/0.png', 'w', force_zip64=True) as file:
        for _ in range(repeats):
            file.write(content)
    return path.read_bytes()


def checkpoint(path: Path, value) -> bytes:
    torch.save(value, path)
    return path.read_bytes()


def depth_of(path: Path) -> np.ndarray:
    return LidarDepth(path).depth_mm(0)


def ids_of(path: Path) -> np.ndarray:
    with InstanceZip(path) as images:
        return images.ids(0)


def frames_of(path: Path) -> list:
    return SceneFolder(path.parent).frames


CLAIMS = {                                       # case -> reader, content or what makes it of a scratch path, what is said
    'vertices of a ply': (read_ply, ply(f'element vertex {HUGE}\nproperty float x'), str(HUGE)),
    'faces of a ply': (read_ply, ply(f'element vertex 1\nproperty float x\nelement face {HUGE}\nproperty list uchar int i'),
                       str(HUGE)),
    'corners of a polygon': (read_ply, ply('element vertex 1\nproperty uchar x\nelement face 1\nproperty list uint int i')
                             [:-63] + struct.pack('<I', (1 << 32) - 1), 'corrupt'),
    'lines of an ascii ply': (read_ply, ply(f'element vertex {HUGE}\nproperty float x', 'ascii'), str(HUGE)),
    'a ply without an end': (read_ply, b'ply\n' + b'comment x\n' * 10000, 'end_header'),
    'frames of a recording': (SensReader, sens(count=HUGE), str(HUGE)),
    'payload of a frame': (SensReader, sens(payload=HUGE), str(HUGE)),
    'name of a sensor': (SensReader, sens(name=HUGE), str(HUGE)),
    'size of a recorded image': (SensReader, sens(sides=(1 << 20, 1 << 20, 6, 4)), str(1 << 20)),
    'pixels of a recorded image': (SensReader, sens(sides=(6, 4, 16000, 16000)), 'pixels'),
    'pixels of a png': (read_png16, png(10 ** 6, 10 ** 6), '1000000 x 1000000'),
    'pixels of a photo': (read_photo, png(10 ** 6, 10 ** 6), 'pixels'),
    'chunk of a photo': (read_photo, png(6, 4)[:33] + struct.pack('>I', (1 << 32) - 1) + b'IDATx', 'cannot be read'),
    'image in a zip': (ids_of, lambda path: zip_of(path, bytes(1 << 20), 40), 'bytes are announced'),
    'pixels of an image in a zip': (ids_of, lambda path: zip_of(path, png(10 ** 5, 10 ** 5)), 'pixels'),
    'a packing that reserves memory': (ids_of, lambda path: zip_of(path, bytes(99), kind=zipfile.ZIP_LZMA), 'method 14'),
    'depth of a frame': (depth_of, lambda path: counted(deflated(bytes(1 << 20), 64)), 'bytes of depth'),
    'frames without content': (depth_of, bytes(1 << 20), 'not a raw deflate stream'),
    'header of safetensors': (read_state, safetensors([2], 8, length=HUGE), 'no readable safetensors'),
    'tensor of safetensors': (read_state, safetensors([HUGE], 4 * HUGE), 'no readable safetensors'),
    'tensor that repeats one number': (read_state, lambda path: checkpoint(path, {'a': torch.zeros(1).expand(HUGE)}),
                                       'all in the file'),
    'tensor without numbers': (read_state, lambda path: checkpoint(path, {'a': torch.empty(HUGE, device='meta')}),
                               'all in the file'),
    'bytes in a pickle': (read_state, READERS['pickle in a checkpoint'].pack(
        b'\x80\x02cbuiltins\nbytearray\n' + b'\x8a\x08' + struct.pack('<q', HUGE) + b'\x85R.'), 'no readable checkpoint'),
    'vertices of a mask': (read_run_lengths, json.dumps({'length': HUGE, 'counts': '1 2'}).encode(), 'length'),
    'a run of a mask': (read_run_lengths, json.dumps(dict(length=9, counts=f'{(1 << 63) - 1} 2')).encode(), 'a run leaves'),
    'a number of many digits': (read_vertex_numbers, b'1\n' * 100000 + b'1' * 100000, '100000 characters'),
    'pixels of a lens': (read_lenses, b'1 PINHOLE 1000000 1000000 9 9 3 3\n', '1000000'),
    'pixels of a scene': (frames_of, scene_json(cameras=[camera([10 ** 6, 10 ** 6])]), '1000000 x 1000000'),
    'keys of a list': (read_key_list, f'a.{{0..{HUGE}}}.b (1,)\n'.encode(), 'stands for more than'),
    'keys of a list, by braces': (read_key_list, b'a' + b'.{0..99}' * 9 + b' (1,)\n', 'stands for more than'),
}


@pytest.mark.parametrize('case', CLAIMS)
def test_what_a_header_claims_is_not_reserved(case, tmp_path):
    read, content, message = CLAIMS[case]
    name = 'scene.json' if read is frames_of else 'w.safetensors' if 'safetensors' in case else 'x'
    data = content(tmp_path / 'scratch') if callable(content) else content
    (tmp_path / name).write_bytes(data)
    start = time.perf_counter()
    with limited(memory=128 << 20), pytest.raises(JrsError) as error:
        read(tmp_path / name)
    assert message in str(error.value) and len(str(error.value)) < 700
    assert time.perf_counter() - start < 2 and len(data) < 2 << 20


@pytest.mark.parametrize('name', ['../x', '/etc/passwd', 'a/b', '..', '.', '', 'a\\b', 'a\0b', 'x' * 300])
def test_a_frame_cannot_be_named_like_a_path(name, tmp_path):
    frame = dict(name=name, index=0, camera=0, cam_from_world=None)
    (tmp_path / 'scene.json').write_bytes(scene_json(cameras=[camera([4, 6])], frames=[frame]))
    with pytest.raises(JrsError, match='scene.json.*cannot name a file'):
        SceneFolder(tmp_path).record  # noqa: B018


@pytest.mark.parametrize('name', ['../../home', '/etc', '..', 'a/b'])
def test_a_split_list_cannot_lead_out_of_its_folder(name, tmp_path):
    (tmp_path / 'val.txt').write_text(f'scene0000_00\n{name}\n')
    with pytest.raises(JrsError, match='val.txt.*is not the name of a folder'):
        read_split(tmp_path, 'val')


@pytest.mark.parametrize('name', ['../x.txt', '/etc/passwd', 'a/../../x.txt', 'a\0b', 'x' * 300])
def test_a_mask_cannot_lie_outside_the_predictions(name, tmp_path):
    (tmp_path / f'{SCENE}.txt').write_bytes(f'{name} 2 0.9\n'.encode())
    with pytest.raises(JrsError):
        read_submission(tmp_path, SCENE, FORMATS['scannet'], 3)


@pytest.mark.parametrize('name', ['../instance-filt/0.png', '/instance-filt/0.png', 'instance-filt/../0.png'])
def test_a_name_in_a_zip_becomes_no_path(name, tmp_path):
    with zipfile.ZipFile(tmp_path / 'x.zip', 'w') as target:
        target.writestr(name, png(6, 4))
    with pytest.raises(JrsError, match='not in the zip, which has 0 images'):
        ids_of(tmp_path / 'x.zip')
    assert [path.name for path in tmp_path.iterdir()] == ['x.zip']


class _Payload:
    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self):
        return os.mkdir, (str(self.mark),)


@pytest.mark.parametrize('name', ['w.pt', 'w.pth', 'w.ckpt', 'model.bin'])
def test_code_in_a_checkpoint_does_not_run(name, tmp_path):
    torch.save({'a': torch.zeros(1), 'b': _Payload(tmp_path / 'ran')}, tmp_path / name)
    with pytest.raises(JrsError, match='refused, nothing of it was executed'):
        read_state(tmp_path / name)
    (tmp_path / name).write_bytes(pickle.dumps(_Payload(tmp_path / 'ran')))
    with pytest.raises(JrsError, match='bare pickle'):
        read_state(tmp_path / name)
    assert not (tmp_path / 'ran').exists()


def test_a_picture_that_another_program_would_draw_is_refused(tmp_path):
    """PIL gives EPS to Ghostscript, whatever the file is called."""
    (tmp_path / 'photo.jpg').write_bytes(b'%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\nshowpage\n')
    with pytest.raises(JrsError, match='photo.jpg cannot be read'):
        read_photo(tmp_path / 'photo.jpg')


def test_metadata_of_weights_are_checked(tmp_path):
    from safetensors.torch import save_file
    for lora in ('3', '{"alpha": "8"}', '[1]', '{"alpha": true}'):
        save_file({'a': torch.zeros(1)}, tmp_path / 'w.safetensors', {'lora': lora})
        with pytest.raises(JrsError, match='w.safetensors: its metadata "lora"'):
            read_metadata(tmp_path / 'w.safetensors')
    save_file({'a': torch.zeros(1)}, tmp_path / 'w.safetensors', {'n': '9' * 5000, 'deep': '[' * 9000, 'lora': 'null'})
    assert read_metadata(tmp_path / 'w.safetensors') == {'n': '9' * 5000, 'deep': '[' * 9000, 'lora': None}


def test_a_scene_is_read_from_its_folder_only(tmp_path):
    write_scene(tmp_path)
    assert [frame.name for frame in SceneFolder(tmp_path / SCENE).frames] == ['0']


FORBIDDEN = {'eval', 'exec', 'compile', '__import__', 'pickle.load', 'pickle.loads', 'pickle.Unpickler', 'marshal.load',
             'marshal.loads', 'shelve.open', 'dill.load', 'joblib.load', 'yaml.load', 'yaml.unsafe_load', 'yaml.full_load',
             'os.system', 'os.popen', 'shutil.unpack_archive'}
MODULES = {'pickle', 'marshal', 'shelve', 'dill', 'cloudpickle', 'joblib', 'tarfile'}
ALLOWED_NAMES = {'UnpicklingError'}              # of those modules: what torch.load raises
# A config is a program: the one place where one is run (README says so).
CONFIGS_ARE_RUN = "exec(compile(ast.Module(body, []), str(path), 'exec'), space)"


def faults(source: str) -> list[str]:
    """Return what of a source file could run code from data: calls, imports, `torch.load` without ``weights_only=True``."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Call):
            name, words = ast.unparse(node.func), {word.arg: ast.unparse(word.value) for word in node.keywords}
            unsafe = any(words.get(word, 'False') != 'False' for word in ('allow_pickle', 'shell'))
            if unsafe or name in FORBIDDEN or name.endswith(('.extractall', '.extract')) \
                    or words.get('weights_only', 'True') != 'True' or name == 'torch.load' and 'weights_only' not in words:
                found.append(f'line {node.lineno}: {ast.unparse(node)[:90]}')
        elif isinstance(node, (ast.Import, ast.ImportFrom)):
            modules = {alias.name for alias in node.names} if isinstance(node, ast.Import) else {node.module}
            names = {alias.name for alias in node.names} if isinstance(node, ast.ImportFrom) else {None}
            if modules & MODULES and not names <= ALLOWED_NAMES or modules == {'torch'} and 'load' in names:
                found.append(f'line {node.lineno}: {ast.unparse(node)}')
    return found


def test_nothing_in_the_source_tree_runs_code_from_data():
    sources = [path for folder in ('jrs', 'plugins', 'tools', 'benchmarks') for path in (ROOT / folder).rglob('*.py')]
    assert len(sources) > 100
    texts = {path.relative_to(ROOT): path.read_text('utf-8') for path in sources}
    assert texts[Path('jrs/inheritance.py')].count(CONFIGS_ARE_RUN) == 1
    texts[Path('jrs/inheritance.py')] = texts[Path('jrs/inheritance.py')].replace(CONFIGS_ARE_RUN, 'pass')
    found = [f'{path}, {fault}' for path, text in texts.items() for fault in faults(text)]
    assert not found, '\n'.join(found)


@pytest.mark.parametrize('line', [
    'torch.load(p)', 'torch.load(p, weights_only=False)', 'torch.load(p, weights_only=flag)', 'from torch import load',
    'import pickle', 'from pickle import loads', 'np.load(p, allow_pickle=True)', 'eval(t)', 'yaml.load(f, L)',
    'z.extractall(d)', 'subprocess.run(t, shell=True)'])
def test_what_could_run_code_would_be_found(line):
    assert faults(line)
    assert not faults('model.eval(); ast.literal_eval(t); torch.load(p, weights_only=True); yaml.safe_load(t); json.load(f)')
