"""The report is one file, loads nothing, shows every part that the reconstruction has, and survives absent ones."""

import base64
import dataclasses
import json
import re

import numpy as np
import torch

from jrs.structures import Instances, Reconstruction
from jrs.visualization.report import match_truth, scene_section, write_report
from tests.small_scene import HEIGHT, VIEWS, WIDTH, small_scene, small_truth

NAMES = ('chair', '<table> & co')


def test_page_loads_nothing_from_outside(tmp_path):
    section = scene_section(small_scene(), NAMES, title='a <b> room')
    text = write_report(tmp_path / 'r.html', 'Report', [section], {'views': 3}, notice='from <nowhere>').read_text()
    assert not re.findall(r'(?:src|href)\s*=\s*["\'](?!data:)', text)
    assert 'http' not in text.replace('https://huggingface.co', '')
    assert '@import' not in text and 'url(' not in text
    assert '<b>' not in text and '&lt;table&gt; &amp; co' in text and 'from &lt;nowhere&gt;' in text


def test_section_shows_every_part_with_true_masks_beside():
    scene = small_scene()
    section = scene_section(scene, NAMES, small_truth(scene))
    for part in ('input', 'depth', 'instance features', 'masks', 'true masks', 'View attention', 'cameras', 'class="cloud"'):
        assert part in section
    assert section.count('alt="true masks, view') == VIEWS
    assert '2 of 2 true objects are hit with IoU ≥ 0.25, 2 with IoU ≥ 0.5' in section


def test_masks_are_also_drawn_on_true_geometry():
    scene = small_scene()
    section = scene_section(scene, NAMES, true_geometry=dataclasses.replace(scene, depth=2 * scene.depth))
    assert 'on the true geometry' in section and section.count('colours of the instances, from above') == 4    # alt, caption


def test_viewer_holds_the_points_where_they_are():
    data = json.loads(re.search(r'<script type="application/json">(.*?)</script>', scene_section(small_scene(), NAMES))[1])
    packed = np.frombuffer(base64.b64decode(data['positions']), '<u2').reshape(-1, 3)
    points = data['low'] + packed / 65535 * np.array(data['extent'])
    np.testing.assert_allclose(points[:, 2], 2.0, atol=1e-6)
    assert len(points) == int(0.8 * VIEWS * HEIGHT * WIDTH)
    assert set(np.frombuffer(base64.b64decode(data['ids']), '<u2')) == {0, 1, 2}
    assert len(data['palette']) == 3 and len(data['cameras']) == VIEWS * 8 * 2 * 3


def test_absent_parts_are_left_out():
    scene = small_scene()
    scene.instances = scene.features = scene.view_attention = None
    section = scene_section(scene, NAMES)
    assert 'No instances' in section
    assert 'View attention' not in section and 'instance features' not in section and '>masks<' not in section


def test_nothing_found_and_one_view_still_report():
    scene = small_scene()
    none = Instances(torch.zeros(0, 1, 8, 12, dtype=torch.bool), *(torch.zeros(0, dtype=torch.int64),) * 3)
    scene = Reconstruction(scene.images[:1], scene.depth[:1], scene.depth_conf[:1], scene.intrinsics[:1],
                           scene.cam_from_world[:1], scene.features[:1], none, ['only'])
    section = scene_section(scene, NAMES, small_truth(small_scene()), valid=torch.zeros(1, HEIGHT, WIDTH, dtype=torch.bool))
    assert 'No instances' in section and 'alt="input, view only"' in section


def test_prediction_meets_the_true_object_it_overlaps_most():
    scene = small_scene()
    hit, iou = match_truth(scene.instances.masks, scene.instances.masks.flip(0))
    assert hit.tolist() == [1, 0] and iou.tolist() == [1, 1]
    assert match_truth(scene.instances.masks, ~scene.instances.masks[:1])[0].tolist()[0] == -1
    assert match_truth(scene.instances.masks, torch.zeros(0, 1, 1, 1))[0].tolist() == [-1, -1]
