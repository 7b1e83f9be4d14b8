"""Figures: which views and regions they choose, which colours agree, how large they are, and what stands in the tables."""

import csv
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from jrs.report.figures.clouds import (
    REGION_COLOURS,
    Room,
    at_least,
    comparison_rows,
    enlarged_rows,
    overlaps_of,
    recoloured,
    region_of,
    room_numbers,
    telling_regions,
)
from jrs.report.figures.queries import class_rows, layer_rows, query_numbers, telling_views
from jrs.report.figures.sheet import Box, Cell, Row, write_numbers, write_sheet
from jrs.report.figures.views import separated_views, separation, view_rows
from jrs.structures import Instances, InstanceTargets
from jrs.viewer.result import Found
from jrs.visualization.cloud import scene_frame
from tests.small_scene import small_scene, small_truth
from tests.viewer._results import wall


def turned(degrees, centre):
    """Return cam_from_world (4, 4) of a camera at `centre` that looks `degrees` to the right of z."""
    a = np.radians(degrees)
    found = np.eye(4)
    found[:3, :3] = [[np.cos(a), 0, -np.sin(a)], [0, 1, 0], [np.sin(a), 0, np.cos(a)]]
    found[:3, 3] = -found[:3, :3] @ centre
    return found


def test_views_are_apart_by_distance_and_turn():
    cameras = np.stack([turned(0, [0, 0, 0]), turned(0, [3.0, 0, 0]), turned(90, [0, 0, 0])])
    depth = np.array([0, 2.0, 2.0, 9.0])
    np.testing.assert_allclose(separation(cameras, depth), [[0, 1.5, 1], [1.5, 0, 2.5], [1, 2.5, 0]], atol=1e-6)


def test_three_views_share_an_instance_and_their_nearest_two_are_farthest_apart():
    place = np.array([0.0, 1, 2, 5, 9])
    apart = np.abs(place[:, None] - place)
    assert separated_views(apart, np.zeros((0, 5))) == ((0, 3, 4), 4.0)
    shares = np.array([[0.2, 0.2, 0.02, 0.2, 0.005]])                                   # view 4 shows less than 1 %
    assert separated_views(apart, shares) == ((0, 2, 3), 2.0)
    assert separated_views(apart, np.array([[1.0, 1, 0, 0, 0]])) == ((0, 3, 4), 4.0)     # in no three views
    many = np.array([[0.1] * 5, [0.1, 0.1, 0.1, 0.1, 0], [0, 0.1, 0.1, 0.1, 0.1]])          # three of them in views 1, 2, 3
    assert separated_views(apart, many) == ((1, 2, 3), 1.0)
    assert separated_views(apart[:2, :2], shares[:, :2]) == ((0, 1), 1.0)
    for case in range(5):                                                               # against a slow loop
        rng = np.random.default_rng(case)
        apart, shares = (half := rng.random((6, 6))) + half.T, rng.random((2 + case, 6)) * 0.02
        allowed = [(min(apart[i, j], apart[i, k], apart[j, k]), (i, j, k)) for i in range(6) for j in range(i + 1, 6)
                   for k in range(j + 1, 6)]
        common = [one for one in allowed if any((share[list(one[1])] >= 0.01).all() for share in shares)]
        rich = [one for one in common if all((shares[:, view] >= 0.01).sum() >= 3 for view in one[1])]
        allowed = rich or common or allowed
        best = max(allowed)
        views, nearest = separated_views(apart, shares)
        assert nearest == pytest.approx(best[0])
        assert views in [those for value, those in allowed if value == pytest.approx(best[0])]


def test_half_of_the_views_show_most_and_the_rest_is_spread():
    visibility = np.array([0, 0.1, 0, 0.6, 0, 0, 0.3, 0, 0, 0])
    assert telling_views(visibility, 6).tolist() == [0, 1, 3, 5, 6, 9]
    assert telling_views(visibility, 2).tolist() == [0, 3] and telling_views(visibility, 20).tolist() == list(range(10))
    assert telling_views(np.zeros(4), 2).tolist() == [0, 3]


@pytest.fixture
def shown():
    """An instance as `study` keeps it: maps (1, V, 2, 3) of two layers for four views."""
    maps = {layer: torch.full((1, 4, 2, 3), 0.01) for layer in (1, 3)}
    maps[3][0, 2] = 0.1
    return SimpleNamespace(scene='s', instance=5, query=7, images=torch.rand(4, 3, 12, 18), view_names=list('abcd'),
                           mask=torch.zeros(4, 6, 9, dtype=torch.bool), visibility=torch.tensor([0.5, 0.0, 0.5, 0.0]),
                           maps=maps, view_attention={1: torch.full((4,), 0.25), 3: torch.tensor([0.1, 0.1, 0.7, 0.1])})


def test_figures_3_and_4_have_a_row_per_checkpoint_and_per_layer(shown):
    both = {'FADA': shown, 'none': shown}
    rows = class_rows([('chair', both), ('table', both)], {'FADA': 3, 'none': 1}, 3)
    assert [row.name for row in rows] == ['chair', 'FADA', 'none', 'table', 'FADA', 'none']
    assert list(rows[0].heads) == ['view a', 'view b', 'view c'] and [cell.note for cell in rows[0].cells] == [
        'shows 50%', 'not seen', 'shows 50%']
    assert [cell.note for cell in rows[1].cells] == ['10.0%', '10.0%', '70.0%']
    assert rows[1].cells[2].picture.mean() > rows[1].cells[0].picture.mean() + 30       # bright where its query looks
    layers = {'FADA': (1, 3), 'none': (3,)}
    assert [row.name for row in layer_rows('chair', both, layers, 3)] == ['chair', 'FADA, 1', 'FADA, 3', 'none, 3']
    numbers = query_numbers([('chair', both)], layers)
    assert len(numbers) == 3 * 4 and numbers[6] == dict(
        scene='s', instance=5, label='chair', checkpoint='FADA', query=7, layer=3, view='c', visibility=0.5,
        view_attention=pytest.approx(0.7), patch_attention=pytest.approx(0.6))


def test_figure_5_colours_a_prediction_as_the_true_instance_that_it_hits():
    scene = small_scene()
    truth = small_truth(scene)
    truth = InstanceTargets(truth.labels, truth.masks, truth.view_visibility, ids=torch.tensor([11, 12]))
    drawing = view_rows(scene, truth, (0, 2), ('chair', 'table'))
    assert [row.name for row in drawing.rows] == ['input', 'depth', 'features (PCA)', 'masks', 'true masks']
    assert list(drawing.rows[0].heads) == ['view a', 'view c'] and all(len(row.cells) == 2 for row in drawing.rows)
    np.testing.assert_array_equal(drawing.rows[3].cells[1].picture, drawing.rows[4].cells[1].picture)
    assert [(row['true_instance'], row['iou']) for row in drawing.numbers] == [(12, 1.0), (11, 1.0)]
    assert drawing.numbers[1] == dict(instance=2, label='chair', score=pytest.approx(0.6), true_instance=11,
                                      true_label='chair', iou=1.0, pixels_view_a=30, pixels_view_c=0)
    bare = view_rows(scene.__class__(images=scene.images, view_names=scene.view_names), truth, (0,), ('chair', 'table'))
    assert [row.name for row in bare.rows] == ['input', 'true masks'] and bare.numbers == []
    none = Instances(torch.zeros(0, 3, 8, 12, dtype=torch.bool), *(torch.zeros(0, dtype=torch.int64),) * 3)
    assert 'masks' in [row.name for row in view_rows(_with(scene, none), truth, (0,), ('chair', 'table')).rows]


def _with(scene, instances):
    scene.instances = instances
    return scene


def predictions(masks, scores):
    """Return a result of masks (M, 100) bool on the wall."""
    masks = np.array(masks)
    found = [Found(f'p{index}', score, np.array([9, 9, 9], np.uint8)) for index, score in enumerate(scores)]
    return at_least(wall(found=found, masks=np.packbits(masks, axis=1), instances=np.zeros(100, np.int32)), 0.0)


@pytest.fixture
def room(monkeypatch):
    """The wall as a mesh with two methods: one right, one that misses the table and adds what is not there."""
    monkeypatch.setattr('jrs.report.figures.clouds.PIXELS', (150, 200))
    middle = np.arange(100) // 10
    truth = wall(true=True, instances=wall().instances * ((middle > 2) & (middle < 7)))
    chair, table = truth.instances == 1, truth.instances == 2
    other = wall().instances == 0
    methods = {'good': predictions([chair, table], [0.9, 0.8]), 'bad': predictions([chair, other, table], [0.9, 0.3, 0.1])}
    methods['bad'] = at_least(methods['bad'], 0.2)
    overlaps = {label: overlaps_of(result, truth) for label, result in methods.items()}
    methods = {label: recoloured(result, overlaps[label].hit, truth) for label, result in methods.items()}
    square = np.array([[0, 1, 10], [1, 11, 10]])
    faces = np.concatenate([square + start for start in range(90) if start % 10 < 9])[:, ::-1]
    frame = scene_frame(truth.points.astype(np.float64), np.stack([view.cam_from_world for view in truth.views]))
    return Room('room', faces, truth, methods, overlaps, np.array([3, 8]), frame)


def test_predictions_below_the_score_leave_their_points_to_others():
    first, second = np.arange(100) < 50, np.arange(100) < 70
    result = predictions([first, second], [0.2, 0.9][::-1])
    assert (result.instances == np.where(first, 1, np.where(second, 2, 0))).all()
    kept = at_least(predictions([first, second], [0.9, 0.1]), 0.5)
    assert len(kept.found) == 1 and (kept.instances == first).all()
    assert at_least(result, 1.0).instances.max() == 0


def test_overlaps_are_iou_on_the_vertices(room):
    overlaps = room.overlaps['bad']
    assert overlaps.iou.shape == (2, 2) and overlaps.iou[0].tolist() == [1.0, 0.0] and overlaps.iou[1].tolist() == [0.0, 0.0]
    assert overlaps.hit.tolist() == [1, 0] and overlaps.best.tolist() == [1.0, 0.0]
    none = overlaps_of(at_least(room.methods['bad'], 1.1), room.truth)
    assert none.iou.shape == (0, 2) and none.best.tolist() == [0, 0]
    colours = [one.colour.tolist() for one in room.methods['bad'].found]
    assert colours[0] == room.truth.found[0].colour.tolist() and colours[1] not in [
        one.colour.tolist() for one in room.truth.found]


def test_figure_6_stands_beside_the_truth(room):
    row, = comparison_rows([room], 0.0, 0.0)
    assert list(row.heads) == ['mesh', 'good', 'bad', 'ground truth'] and row.name == 'room'
    good, bad, true = (cell.picture.astype(int) for cell in row.cells[1:])
    assert (good == true).all() and (np.abs(bad - true).max(-1) > 50).mean() > 0.1
    assert ((true[..., 0] > 170) & (true[..., 1:].max(-1) < 30)).mean() > 0.02           # the chair


def test_figure_7_enlarges_where_the_methods_differ(room):
    shot = room.shot(0.0, 0.0)
    assert telling_regions(room, shot, 1) == [2] and telling_regions(room, shot, 9) == [2, 1]
    rows = enlarged_rows(room, shot, [2])
    box, = rows[0].cells[0].boxes
    assert box.colour == REGION_COLOURS[0] and rows[1].name == 'table'
    height, width = shot.size
    assert box.place[2] / box.place[3] == pytest.approx(width / height) and box.place[0] > width / 3
    assert [cell.note for cell in rows[1].cells] == ['', 'IoU 1.00', 'IoU 0.00', '']
    blue = [((cell := row.cells[3].picture)[..., 2] > 170).mean() - (cell[..., 0] > 170).mean() for row in rows]
    assert blue[1] > blue[0] + 0.05
    assert region_of(np.zeros((6, 8), bool)) is None
    corner = np.zeros((60, 80), bool)
    corner[:20, :30] = True
    assert region_of(corner)[:2] == (0.0, 0.0)


def test_the_table_of_a_room_names_hits_and_misses(room):
    rows = room_numbers(room, [2])
    assert [(row['method'], row['label'], row['true_instance'], row['iou'], row['enlarged']) for row in rows] == [
        ('good', 'p0', 3, 1.0, 0), ('good', 'p1', 8, 1.0, 1), ('bad', 'p0', 3, 1.0, 0), ('bad', 'p1', '', 0.0, 0),
        ('bad', '', 8, 0.0, 1)]
    assert len({tuple(row) for row in rows}) == 1                                       # one header fits all


def test_a_sheet_has_its_size_in_print_and_its_text_stays_text(tmp_path):
    cell = Cell(np.full((30, 40, 3), 90, np.uint8), 'a note', [Box((255, 0, 0), (2, 2, 9, 9)), Box((0, 0, 255))])
    rows = [Row([cell, None, cell], 'a $name', ['one', 'two']), Row([cell, cell, cell])]
    png, pdf = write_sheet(tmp_path / 'figure9', rows, 'A caption that is long enough to be wrapped. ' * 5, 84.0)
    assert (png.name, pdf.name) == ('figure9.png', 'figure9.pdf')
    picture = Image.open(png)
    assert picture.size[0] == pytest.approx(84 / 25.4 * 300, abs=1)
    assert picture.info['dpi'] == pytest.approx((300, 300), abs=0.1)
    data = pdf.read_bytes()
    assert data.startswith(b'%PDF') and b'/FontFile2' in data and b'CreationDate' not in data
    again = write_sheet(tmp_path / 'again', rows, 'A caption that is long enough to be wrapped. ' * 5, 84.0)
    assert again[0].read_bytes() == png.read_bytes() and again[1].read_bytes() == data
    pixels = np.asarray(picture.convert('RGB'))
    assert (pixels == 90).all(-1).mean() > 0.4 and (pixels == [255, 0, 0]).all(-1).any()


def test_numbers_are_written_with_their_names(tmp_path):
    path = write_numbers(tmp_path / 'a.csv', [dict(view='a, b', share=0.5), dict(view='c', share=0.25)])
    with open(path, newline='') as file:
        assert list(csv.DictReader(file)) == [dict(view='a, b', share='0.5'), dict(view='c', share='0.25')]
    assert write_numbers(tmp_path / 'b.csv', []).read_text() == 'nothing was found\n'
