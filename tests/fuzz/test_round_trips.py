"""What our writers write comes back as it was, for any content that the formats can hold."""

from __future__ import annotations

import tempfile
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from jrs.config import parse_override
from jrs.datasets.scene import Camera, Frame, SceneFolder, SceneInstance, SceneRecord, SceneWriter
from jrs.io import scannet
from jrs.io.ply import NAMES, read_ply, write_ply
from jrs.io.png import read_png16, write_png16
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
from jrs.io.tensor_file import DTYPE_NAMES, write_tensors
from jrs.io.weights import encode_metadata, read_metadata, read_state

COUNTS = st.integers(0, 12)
WORDS = st.text('abcXYZ019', min_size=1, max_size=8)
LABELS = st.text('aZ9_-+,;"\'\\%é漢🛋', min_size=1, max_size=8)
JSON = st.recursive(st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8),
                    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(WORDS, inner, max_size=3), max_leaves=6)
few = settings(max_examples=25, derandomize=True, database=None, deadline=None)


def whole_numbers(count: int, limit: int = 1 << 31):
    return arrays.arrays(np.int64, count, elements=st.integers(0, limit - 1))


def again(write, read, name: str = 'x'):
    """Return what `read` finds in the file that `write` leaves."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / name
        write(path)
        return read(path)


@few
@given(st.data())
def test_meshes(data):
    count = data.draw(st.integers(1, 9))
    kinds = data.draw(st.dictionaries(WORDS, st.sampled_from(sorted(NAMES)), min_size=1, max_size=4))
    columns = {name: data.draw(arrays.arrays(np.dtype(kind), count)) for name, kind in kinds.items()}
    faces = data.draw(st.none() | arrays.arrays(np.int32, (3, 3), elements=st.integers(0, count - 1)))
    found, triangles = again(lambda path: write_ply(path, columns, faces), read_ply)
    assert list(found) == list(columns) and (triangles is None) == (faces is None)
    for name, values in columns.items():
        assert found[name].dtype == values.dtype
        np.testing.assert_array_equal(found[name], values)
    np.testing.assert_array_equal(triangles, faces)


@few
@given(arrays.arrays(np.uint16, st.tuples(st.integers(1, 6), st.integers(1, 6))))
def test_16_bit_images(image):
    np.testing.assert_array_equal(again(lambda path: write_png16(path, image), read_png16), image)


@few
@given(st.data())
def test_recordings(data):
    size = data.draw(st.tuples(st.integers(1, 4), st.integers(1, 4)))
    depth, color = data.draw(arrays.arrays(np.uint16, size)), data.draw(arrays.arrays(np.uint8, (*size, 3)))
    pose = data.draw(arrays.arrays(np.float32, (4, 4)))
    header = SensHeader(pose, pose, size, size, color_compression='raw', sensor_name=data.draw(WORDS),
                        version=data.draw(st.sampled_from([3, 4])))
    frames = [SensFrame(pose, color.tobytes(), encode_depth(depth), 7, 9)] * data.draw(COUNTS)

    def read(path):
        with SensReader(path) as reader:
            for index in range(len(reader)):
                np.testing.assert_array_equal(reader.depth(index), depth)
                np.testing.assert_array_equal(reader.color(index), color)
            np.testing.assert_array_equal(reader.world_from_cam, [pose] * len(frames) if frames else np.zeros((0, 4, 4)))
            return len(reader), reader.header.sensor_name, reader.header.version
    assert again(lambda path: write_sens(path, header, frames, np.zeros(2, IMU)), read) == \
        (len(frames), header.sensor_name, header.version)


@few
@given(st.lists(st.tuples(st.integers(0, 65534), LABELS, st.lists(st.integers(0, 1 << 40), max_size=4).map(tuple)),
                max_size=4))
def test_annotations(rows):
    groups = [scannet.SegmentGroup(*row) for row in rows]
    assert again(lambda path: scannet.write_aggregation(path, 's', groups), scannet.read_groups) == groups
    table = {label: scannet.LabelRow(number, number % 41, 'x') for number, label, _ in rows}
    assert again(lambda path: scannet.write_label_table(path, table), scannet.read_label_table) == table
    names = [label for _, label, _ in rows]
    assert again(lambda path: scannet.write_list(path, names), scannet.read_list) == names


@few
@given(whole_numbers(7, 1 << 62), arrays.arrays(np.float64, (4, 4), elements=st.floats(-1e6, 1e6)), WORDS)
def test_segments_and_metadata(segments, matrix, text):
    found = again(lambda path: scannet.write_segments(path, 's', segments), scannet.read_segments)
    np.testing.assert_array_equal(found, segments)
    values = {'axisAlignment': matrix, 'numColorFrames': 12.0, 'sceneType': f'{text} / x'}
    found = again(lambda path: scannet.write_metadata(path, values), scannet.read_metadata)
    np.testing.assert_allclose(found.pop('axisAlignment'), matrix, atol=5e-7)
    assert found == {'numColorFrames': 12.0, 'sceneType': f'{text} / x'}


@few
@given(st.data())
def test_predictions(data):
    points, found = data.draw(st.integers(1, 20)), data.draw(st.integers(0, 3))
    masks, layout = data.draw(arrays.arrays(bool, (found, points))), data.draw(st.sampled_from(list(FORMATS.values())))
    labels = np.array(data.draw(st.lists(st.integers(0, 99), min_size=found, max_size=found)), np.int64)
    scores = np.array(data.draw(st.lists(st.floats(0, 1), min_size=found, max_size=found)), np.float64)
    sent = SceneSubmission(np.packbits(masks, axis=1), labels, scores, points)
    back = again(lambda path: write_submission(path, 's', layout, sent),
                 lambda path: read_submission(path, 's', layout, points))
    assert [value.tolist() for value in (back.masks, back.labels, back.scores)] == \
        [value.tolist() for value in (sent.masks, labels, scores)]
    mask = np.concatenate([np.zeros(0, bool), *masks])
    np.testing.assert_array_equal(again(lambda path: write_run_lengths(path, mask), read_run_lengths), mask)


@few
@given(arrays.arrays(np.int64, COUNTS))
def test_vertex_numbers(numbers):
    np.testing.assert_array_equal(again(lambda path: write_vertex_numbers(path, numbers), read_vertex_numbers), numbers)


@few
@given(st.data())
def test_weights(data):
    shape = st.tuples(st.sampled_from(list(DTYPE_NAMES)), st.lists(st.integers(0, 3), max_size=3))
    shapes = data.draw(st.dictionaries(WORDS, shape, min_size=1, max_size=4))
    tensors = {name: torch.arange(int(np.prod(shape))).reshape(shape).to(dtype) for name, (dtype, shape) in shapes.items()}
    card = data.draw(st.dictionaries(WORDS.filter(lambda word: word not in ('lora', 'format')), JSON, max_size=3))

    def read(path):
        return {name: tensor.clone() for name, tensor in read_state(path).ours.items()}, read_metadata(path)
    found, stated = again(lambda path: write_tensors(path, tensors, encode_metadata(card)), read, 'w.safetensors')
    assert stated == card and found.keys() == tensors.keys()
    assert all(torch.equal(found[name], tensor) and found[name].dtype == tensor.dtype for name, tensor in tensors.items())


@few
@given(st.data())
def test_scenes(data):
    size = data.draw(st.tuples(st.integers(1, 4000), st.integers(1, 4000)))
    focal, centre = data.draw(st.floats(1e-3, 1e6)), data.draw(st.floats(-1e6, 1e6))
    intrinsics = data.draw(st.none() | st.just(np.array([[focal, 0, centre], [0, focal, centre], [0, 0, 1]])))
    depth = size if intrinsics is not None and data.draw(st.booleans()) else None
    camera = Camera(size, intrinsics, depth, None if depth is None else intrinsics)
    pose = arrays.arrays(np.float64, (4, 4), elements=st.floats(allow_nan=False, allow_infinity=False))
    stems = data.draw(st.lists(LABELS.filter(lambda name: '\\' not in name), max_size=3))
    frames = [Frame(stem, index, 0, data.draw(st.none() | pose)) for index, stem in enumerate(stems)]
    instances = data.draw(st.none() | st.lists(st.builds(SceneInstance, st.integers(1, 999), LABELS, st.dictionaries(
        WORDS, st.integers(0, 1200), max_size=2)), unique_by=lambda item: item.id, max_size=3))
    notes = data.draw(st.lists(LABELS, max_size=2))
    record = SceneRecord('s', data.draw(WORDS), [camera], frames, instances, {'every': 3}, notes)

    def write(path):
        with SceneWriter(path, 's') as writer:
            writer.finish(record)
    np.testing.assert_equal(asdict(again(write, lambda path: SceneFolder(path / 's').record)), asdict(record))


@few
@given(st.lists(WORDS, min_size=1, max_size=3), st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | WORDS,
    lambda inner: st.lists(inner, max_size=3) | st.tuples(inner, inner) | st.dictionaries(WORDS, inner, max_size=2)))
def test_overrides(path, value):
    assert parse_override(f'{".".join(path)}={value!r}') == ('.'.join(path), value)
