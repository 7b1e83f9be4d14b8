"""A folder per instance: what is cut out is where the mask is, and its points are its own."""

import json

import numpy as np
from PIL import Image

from jrs.geometry.cloud import point_cloud
from jrs.io.images import Original
from jrs.io.ply import read_ply
from jrs.io.png import read_png16
from jrs.postprocess.export import export_scene
from tests.small_scene import small_photos, small_scene


def test_crops_and_points_are_those_of_masks_and_cloud(tmp_path):
    scene = small_scene()
    photos = small_photos(scene)
    height, width = photos.original_sizes[0]
    picture = np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)
    photos.originals = [Original(lambda: picture)] * len(scene.view_names)
    cloud = point_cloud(scene, photos.valid, drop_percent=0)
    (tmp_path / 'objects' / '009_old').mkdir(parents=True)
    written = export_scene(tmp_path, scene, photos, cloud, ('chair', 'coffee table'), np.zeros((2, 3), np.uint8), glb=False,
                           objects=True)
    assert tmp_path / 'objects' in written
    entries = json.loads((tmp_path / 'objects' / 'objects.json').read_text())['objects']
    names = sorted(path.name for path in (tmp_path / 'objects').iterdir())
    assert names == ['001_coffee_table', '002_chair', 'objects.json']
    masks = {name: read_png16(tmp_path / 'masks' / f'{name}.png') for name in scene.view_names}
    for entry in entries:
        for crop in entry['crops']:
            left, top, right, bottom = crop['box']
            found = np.array(Image.open(tmp_path / 'objects' / crop['file']))
            mask = masks[crop['view']] == entry['id']
            assert np.array_equal(found[..., 3] > 0, mask[top:bottom, left:right]) and crop['pixels'] == mask.sum() > 0
            assert np.array_equal(found[..., :3], picture[top:bottom, left:right])
        points = read_ply(tmp_path / 'objects' / entry['points']['file'])[0]
        assert len(points['x']) == entry['points']['count'] and set(points['instance']) == {entry['id']}
    assert {crop['view'] for crop in entries[1]['crops']} == {'a'}
