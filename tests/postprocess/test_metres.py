"""A reconstruction of unknown unit comes to metres by one known length, depth, or by where cameras stood."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from jrs.errors import DataError
from jrs.geometry.cloud import point_cloud
from jrs.geometry.scale import with_longer_translations
from jrs.io.known_geometry import read_cameras, unit_in_words
from jrs.io.known_scale import FORMS, parse_scale_source
from jrs.postprocess.export import cameras_record, export_scene
from jrs.postprocess.metres import in_metres
from tests.small_scene import DEPTH, FOCAL, STEP, small_photos, small_scene

FACTOR = 3.5                                   # metres per unit


def scene():
    """The small scene with depth that is not flat, and what only some models predict."""
    small = small_scene()
    depth = small.depth + torch.rand(small.depth.shape, generator=torch.Generator().manual_seed(1))
    depth[:, 4:6, 8:12] = DEPTH
    return replace(small, depth=depth, extras={'metric_scale': torch.tensor(2.0), 'rays': torch.ones(3)})


def write_cameras(path, own, names=('a', 'b', 'c'), scale='metric', shift=(4.0, 5.0, 6.0)):
    """Write the cameras of `own`, in metres and a world of their own."""
    turn = torch.tensor([[0.0, -1, 0, shift[0]], [1, 0, 0, shift[1]], [0, 0, 1, shift[2]], [0, 0, 0, 1]])
    cameras = with_longer_translations(own.cam_from_world, FACTOR) @ turn
    entries = [dict(name=name, width=48, height=40, intrinsics=[[40, 0, 24], [0, 40, 16], [0, 0, 1]],
                    cam_from_world=cameras['abc'.index(name)].tolist()) for name in names]
    path.write_text(json.dumps(dict(scale=scale, cameras=entries)))
    return path


def write_depth(folder, own):
    folder.mkdir()
    for name, depth in zip(own.view_names, own.depth, strict=True):
        padded = np.zeros((20, 24), np.float32)                                 # the photo's aspect; the input was cropped
        padded[:16] = FACTOR * depth.numpy()
        np.save(folder / f'{name}.npy', padded)
    return folder


def texts(tmp_path, own) -> dict[str, str]:
    """Every form; original pixels are twice those of the input, and at depth 2 a pixel of it is 2 / 20 units wide."""
    wide = FACTOR * 3 * DEPTH / FOCAL                                           # three input pixels, in metres
    moved = FACTOR * STEP                                                       # one pixel in two views: their distance
    return {'length': f'length={wide}@a:16.5,8.5@a:22.5,8.5', 'length over views': f'length={moved}@a:18.5,8.5@b:18.5,8.5',
            'depth': f'depth={FACTOR * DEPTH}@b:18.5,8.5', 'depth images': f'depth={write_depth(tmp_path / "depths", own)}',
            'cameras': f'cameras={write_cameras(tmp_path / "true.json", own)}'}


SAID = {'length': 'a known length of ', 'length over views': 'a known length of 1.75 m', 'depth': 'a known depth of 7 m',
        'depth images': 'the depth in depths', 'cameras': 'the camera positions in true.json'}


@pytest.mark.parametrize('form', SAID)
@pytest.mark.parametrize('before', ['arbitrary', 'metric, approximate'])
def test_every_form_finds_the_factor_and_the_result_says_what_it_is_from(tmp_path, form, before):
    own = replace(scene(), scale=before)
    photos = small_photos(own)
    found, factor = in_metres(own, parse_scale_source(texts(tmp_path, own)[form]), photos)
    assert factor == pytest.approx(FACTOR, rel=1e-5)
    torch.testing.assert_close(found.depth, FACTOR * own.depth)
    torch.testing.assert_close(found.cam_from_world, with_longer_translations(own.cam_from_world, FACTOR))
    expected, actual = (point_cloud(one, drop_percent=0).points for one in (own, found))
    np.testing.assert_allclose(actual, FACTOR * expected, rtol=1e-5, atol=1e-5)
    assert found.scale.startswith(f'metric, from {SAID[form]}')
    assert found.extras['metric_scale'] == pytest.approx(2 * FACTOR) and torch.equal(found.extras['rays'], torch.ones(3))
    assert torch.equal(found.intrinsics, own.intrinsics)


def test_files_say_the_unit_and_what_it_is_from_and_are_read_as_metric(tmp_path):
    own = scene()
    photos = small_photos(own)
    found, _ = in_metres(own, parse_scale_source(texts(tmp_path, own)['depth']), photos)
    record = cameras_record(found, photos)
    assert record['scale'] == unit_in_words(found.scale) == 'metres, from a known depth of 7 m'
    (tmp_path / 'cameras.json').write_text(json.dumps(record))
    assert read_cameras(tmp_path / 'cameras.json').scale == 'metric'
    cloud = point_cloud(found)
    palette = np.zeros((2, 3), np.uint8)
    for one in (found, own):
        words = unit_in_words(one.scale)
        export_scene(tmp_path / 'out', one, photos, cloud, ('x', 'y'), palette, colmap=True, glb=False)
        assert words in (tmp_path / 'out' / 'cloud.ply').read_bytes()[:400].decode('ascii', 'replace')
        assert json.loads((tmp_path / 'out' / 'instances.json').read_text())['scale'] == words
        assert f', unit: {words}' in (tmp_path / 'out' / 'colmap/sparse/0/points3D.txt').read_text()


def test_two_of_the_cameras_are_enough_and_approximate_ones_say_so(tmp_path):
    own = scene()
    file = write_cameras(tmp_path / 'two.json', own, 'ca', 'metric, approximate')
    found, factor = in_metres(own, parse_scale_source(f'cameras={file}'), small_photos(own))
    assert factor == pytest.approx(FACTOR) and found.scale == 'metric, from the camera positions in two.json (approximate)'
    (tmp_path / 'cameras.json').write_text(json.dumps(cameras_record(found, small_photos(own))))
    assert read_cameras(tmp_path / 'cameras.json').scale == 'metric, approximate'


@pytest.mark.parametrize('text', ['', 'length', 'length=2', 'length=2@a:1,2', 'size=2@a:1,2@b:1,2', 'depth=2@a',
                                  'depth=gone', 'depth=2@a:1', 'cameras=', 'length=e@a:1,2@b:1,2', 'depth=2@a:1e999,2',
                                  'depth='])
def test_another_form_is_refused_with_all_that_are_allowed(text):
    with pytest.raises(DataError) as caught:
        parse_scale_source(text)
    assert repr(text) in str(caught.value) and all(form in str(caught.value) for form in FORMS)


@pytest.mark.parametrize('text', ['depth=0@a:1,2', 'length=-1@a:1,2@b:1,2', 'depth=1e999@a:1,2'])
def test_metres_are_finite_and_above_0(text):
    with pytest.raises(DataError, match='above 0|finite'):
        parse_scale_source(text)


@pytest.mark.parametrize(('text', 'said'), [
    ('depth=2@door:1,2', "no view 'door'. There are: a, b, c"), ('depth=2@a:48,2', '48 x 40 pixels, so none at 48,2'),
    ('depth=2@a:-1,2', 'none at -1,2'), ('depth=2@a:20,36', 'was cut off'), ('depth=2@c:4,4', 'was cut off'),
    ('length=2@a:4,4@a:4,4', 'both ends of the length are the same pixel'),
    ('length=2@a:4,4@b:4,99', 'b has 48 x 40 pixels')])
def test_views_and_pixels_that_are_not_there_are_named(text, said):
    own = scene()
    with pytest.raises(DataError, match=said):
        in_metres(own, parse_scale_source(text), small_photos(own))


def test_names_may_have_any_letters():
    source = parse_scale_source('length=2.5@IMG:1@home:10,20.5@b,c:3,4')
    assert [(end.view, end.x, end.y) for end in source.ends] == [('IMG:1@home', 10, 20.5), ('b,c', 3, 4)]


def test_what_cannot_be_compared_is_refused(tmp_path):
    own = scene()
    photos = small_photos(own)
    blank, depthless, blind = (replace(own, depth=torch.zeros_like(own.depth)), replace(own, depth=None, depth_conf=None),
                               replace(own, cam_from_world=None, intrinsics=None))
    here = replace(own, cam_from_world=own.cam_from_world[:1].repeat(3, 1, 1))
    cameras = write_cameras(tmp_path / 'true.json', own)
    for one, text, said in (
            (blank, 'depth=2@a:4,4', 'no depth at pixel 4,4 of a'), (depthless, 'depth=2@a:4,4', 'no depth head'),
            (blind, 'length=2@a:4,4@a:8,4', 'no camera head'), (blind, f'cameras={cameras}', 'no camera head'),
            (here, f'cameras={cameras}', 'all stand in one place'), (here, 'length=2@a:18.5,8.5@b:18.5,8.5', 'same place'),
            (own, f'cameras={write_cameras(tmp_path / "here.json", here)}', 'all stand in one place'),
            (own, f'cameras={write_cameras(tmp_path / "one.json", own, "a")}', 'at least two of the views')):
        with pytest.raises(DataError, match=said):
            in_metres(one, parse_scale_source(text), photos)
    with pytest.raises(DataError, match='arbitrary scale.*"metric"'):
        parse_scale_source(f'cameras={write_cameras(tmp_path / "free.json", own, scale="arbitrary")}')
