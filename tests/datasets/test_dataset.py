"""Scene folders become batches whose cameras, depth and ids fit together."""

import shutil
from dataclasses import replace
from itertools import combinations

import numpy as np
import pytest
import torch

from jrs.benchmarks import get_benchmark
from jrs.datasets.dataset import SceneDataset, collate_scenes
from jrs.datasets.prepare.scannet import prepare_scannet
from jrs.datasets.sampling import SampleRequest, ViewBatchSampler
from jrs.datasets.scene import SceneFolder
from jrs.engine.data import data_line
from jrs.errors import ConfigError, DataError
from jrs.structures import UNNAMED
from tests.datasets._raw_scan import export_frames, world_from_cam, write_raw

CROPS = {'type': 'TrainViews', 'brightness': 0, 'contrast': 0, 'saturation': 0, 'hue': 0}


def dataset(prepared, split='train', **options):
    options = {'benchmark': 'scannet20', 'width': 84, 'data_root': prepared.parent, **options}
    return SceneDataset('out', split, **options)


def request(draw=0, num_views=5, ratio=0.7):
    return SampleRequest(0, draw, num_views, ratio)


def bytes_by_type(batch):
    found = {}
    for value in vars(batch).values():
        if isinstance(value, torch.Tensor):
            found[value.dtype] = found.get(value.dtype, 0) + value.nbytes
    return found


def world_points(batch, view):
    """Return the world points (H*W, 3) of a view, and which of them have depth."""
    depth = batch.depth_m[0, view].double()
    v, u = torch.meshgrid(torch.arange(depth.shape[0]), torch.arange(depth.shape[1]), indexing='ij')
    rays = torch.stack([u, v, torch.ones_like(u)], -1).double() @ batch.intrinsics[0, view].double().inverse().T
    world_from_cam = batch.cam_from_world[0, view].double().inverse()
    points = (rays * depth[..., None]) @ world_from_cam[:3, :3].T + world_from_cam[:3, 3]
    return points.reshape(-1, 3), (depth > 0).flatten()


@pytest.mark.parametrize('transform', [None, CROPS])
def test_depth_of_views_unprojects_to_one_surface(prepared, transform):
    batch = dataset(prepared, transform=transform)[request()]
    surface = []
    for view in range(5):
        points, valid = world_points(batch, view)
        x, y, z = points[valid].T
        surface.append(z[(y < 1.9) & (z < 0.05)])                           # the floor, z = 0
    surface = torch.cat(surface)
    assert len(surface) > 3000 and surface.abs().max() < 0.05               # one depth pixel at a grazing angle
    assert surface.mean().abs() < 0.004


def test_train_batch_has_the_documented_shapes_and_ranges(prepared):
    batch = dataset(prepared, transform={'type': 'TrainViews'})[request()]
    assert batch.images.shape == (1, 5, 3, 56, 84) and batch.images.dtype == torch.uint8
    assert batch.images.min() < 60 and batch.images.max() > 180
    assert batch.depth_m.shape == batch.instance_ids.shape == (1, 5, 56, 84)
    assert batch.intrinsics.shape == (1, 5, 3, 3) and batch.cam_from_world.shape == (1, 5, 4, 4)
    assert batch.scene_names == ['scene0000_00'] and len(batch.view_names[0]) == 5
    assert batch.ground_truth is None


def test_a_batch_has_three_bytes_a_pixel_for_images_two_for_ids_and_four_for_depth_that_is_read(prepared):
    pixels, cameras = 5 * 56 * 84, 5 * (9 + 16) * 4
    for mode in ('train', 'test'):
        data = [dataset(prepared, mode=mode, max_views=5, **options) for options in
                ({}, dict(maps=()), dict(maps=('instance_ids',)), dict(maps=('depth_m',)))]
        whole, neither, ids, depth = (bytes_by_type(part[request()]) for part in data)
        assert whole == {torch.uint8: 3 * pixels, torch.int16: 2 * pixels, torch.float32: 4 * pixels + cameras}
        assert neither == {torch.uint8: 3 * pixels, torch.float32: cameras}
        assert ids == {**neither, torch.int16: 2 * pixels}
        assert depth == {**neither, torch.float32: 4 * pixels + cameras}


def test_maps_that_nothing_reads_are_not_read_from_the_disk_and_scoring_keeps_the_sensor(prepared, tmp_path):
    shutil.copytree(prepared, tmp_path / 'out')
    shutil.rmtree(tmp_path / 'out' / 'scene0000_00' / 'instances')
    scored = dataset(tmp_path / 'out', mode='test', maps=())[0].ground_truth[0]
    assert scored.depth_m.shape == (8, 48, 64)
    shutil.rmtree(tmp_path / 'out' / 'scene0000_00' / 'depth')
    batch = dataset(tmp_path / 'out', maps=())[request()]
    assert batch.depth_m is None and batch.instance_ids is None and len(batch.instances[0].ids) == 3


def test_ids_that_a_batch_cannot_carry_are_refused(prepared, monkeypatch):
    data = dataset(prepared)
    monkeypatch.setattr(data, 'class_index', lambda scene: {1000: 0})
    with pytest.raises(DataError, match='1..999, got 1000'):
        data[request()]


def test_item_depends_on_seed_and_draw_only(prepared):
    data = dataset(prepared, transform={'type': 'TrainViews'})
    first = data[request(draw=3)]
    np.random.seed(1)
    torch.manual_seed(1)
    data[request(draw=4)]
    again, other = data[request(draw=3)], data[request(draw=4)]
    assert first.view_names == again.view_names and torch.equal(first.images, again.images)
    assert not torch.equal(first.images, other.images)
    assert not torch.equal(first.images, dataset(prepared, transform={'type': 'TrainViews'}, seed=1)[request(3)].images)


@pytest.mark.parametrize('benchmark, labels', [('scannet20', {'chair', 'table'}),
                                               ('scannet200', {'chair', 'table', 'office chair'})])
def test_only_instances_of_the_benchmark_are_targets(prepared, benchmark, labels):
    batch = dataset(prepared, benchmark=benchmark)[request()]
    names = get_benchmark(benchmark).class_names
    found = {names[label] for label in batch.instances[0].labels.tolist()}
    assert found == labels
    assert len(batch.instances[0].ids) == 3                                 # floor, wall and the strange thing are not
    assert set(batch.instance_ids.unique().tolist()) <= {-1, 0, *batch.instances[0].ids.tolist()}


def test_ids_follow_the_color(prepared):
    """In the fixture each object has one colour of its own, so ids and colours must change at the same pixels."""
    batch = dataset(prepared, transform=CROPS)[request(num_views=8)]
    for number in batch.instances[0].ids.tolist():
        pixels = batch.unpacked().images[0].permute(0, 2, 3, 1)[batch.instance_ids[0] == number]
        near = (pixels - pixels.median(dim=0).values).abs().max(dim=1).values < 0.12
        assert len(pixels) > 100 and near.float().mean() > 0.85             # the rest are blended edges


def test_test_item_has_all_views_in_order_and_what_it_is_scored_against(prepared):
    batch = dataset(prepared, split='val', mode='test', width=98)[0]
    truth = batch.ground_truth[0]
    assert batch.view_names[0] == ['0', '1', '2', '3', '5', '6', '7', '8']
    assert batch.images.shape == (1, 8, 3, 70, 98)                          # 72 * 98 / 96 = 73.5, rounded to patches
    assert truth.depth_m.shape == (8, 48, 64) and truth.superpoints.max() == 8
    np.testing.assert_allclose(truth.cam_from_world[0], np.linalg.inv(world_from_cam(0.05)), atol=1e-6)
    ids = set(np.unique(truth.vertex_ids).tolist())
    assert ids == {0, 2001, 1002, 5003, 7004, 5006}                         # nyu40 id * 1000 + objectId + 1


def test_input_from_depth_leads_to_the_same_surface(prepared):
    batch = dataset(prepared, mode='test')[0]
    truth = batch.ground_truth[0]
    v, u = np.mgrid[4:44, 4:60].reshape(2, -1)
    pixel = truth.input_from_depth[2] @ np.stack([u, v, np.ones_like(u)])
    ray_depth = np.linalg.inv(truth.depth_intrinsics[2]) @ np.stack([u, v, np.ones_like(u)])
    ray_input = np.linalg.inv(batch.intrinsics[0, 2].double().numpy()) @ pixel
    np.testing.assert_allclose(ray_depth, ray_input, atol=1e-6)
    column, row, _ = np.floor(pixel + 0.5).astype(int)
    inside = (row >= 0) & (row < 56) & (column >= 0) & (column < 84)
    same = np.abs(batch.depth_m[0, 2].numpy()[row[inside], column[inside]] - truth.depth_m[2][v[inside], u[inside]])
    assert np.median(same) < 0.01


def test_true_ids_of_views_and_mesh_agree(prepared):
    """The oracle: ids of the views carried to the mesh by depth name the vertices' own instance."""
    batch = dataset(prepared, mode='test')[0]
    truth, votes = batch.ground_truth[0], []
    for view in range(batch.images.shape[1]):
        camera = truth.vertices @ truth.cam_from_world[view][:3, :3].T + truth.cam_from_world[view][:3, 3]
        pixel = camera @ truth.depth_intrinsics[view].T
        pixel = pixel[:, :2] / pixel[:, 2:]
        u, v = np.floor(pixel + 0.5).astype(int).T
        ok = (camera[:, 2] > 0.1) & (u >= 0) & (u < 64) & (v >= 0) & (v < 48)
        ok[ok] &= np.abs(truth.depth_m[view][v[ok], u[ok]] - camera[ok, 2]) < 0.02
        into = np.floor(truth.input_from_depth[view] @ np.stack([u, v, np.ones_like(u)]) + 0.5).astype(int)
        ok &= (into[0] >= 0) & (into[0] < 84) & (into[1] >= 0) & (into[1] < 56)
        ids = batch.instance_ids[0, view].numpy()[into[1][ok], into[0][ok]]
        known = ids > 0
        votes.append((truth.vertex_ids[ok][known] % 1000 == ids[known]).mean())
    assert np.mean(votes) > 0.93


def test_stride_counts_frames_of_the_recording(prepared):
    data = dataset(prepared, mode='test', every=2)
    assert data[0].view_names[0] == ['0', '2', '6', '8']                    # 4 is lost and not replaced
    assert dataset(prepared, mode='test', max_views=3)[0].view_names[0] == ['0', '5', '8']


def test_stride_may_be_the_benchmark_s(prepared, monkeypatch):
    sparse = replace(get_benchmark('scannet20'), view_stride=4)
    monkeypatch.setattr('jrs.datasets.scenes.get_benchmark', lambda name: sparse)
    assert dataset(prepared, mode='test', every=None)[0].view_names[0] == ['0', '8']              # 4 is lost


def test_views_may_be_a_window_with_a_step_around_the_middle(prepared):
    assert dataset(prepared, mode='test', max_views=3, view_step=1)[0].view_names[0] == ['3', '5', '6']
    assert dataset(prepared, mode='test', max_views=2, view_step=2)[0].view_names[0] == ['3', '5']
    assert dataset(prepared, mode='test', max_views=4, view_step=2, every=2)[0].view_names[0] == ['0', '2', '6', '8']
    with pytest.raises(DataError, match='scene0001_00: 5 views 3 frames apart need 13 frames.*8 between'):
        dataset(prepared, 'val', mode='test', max_views=5, view_step=3)[0]
    with pytest.raises(DataError, match='view_step=1 is asked for, and every 2th frame'):
        dataset(prepared, mode='test', every=2, max_views=2, view_step=1)[0]
    with pytest.raises(ConfigError, match='needs max_views'):
        dataset(prepared, mode='test', view_step=2)


def test_training_and_test_views_have_the_filter_that_is_asked_for(prepared):
    def images(mode, resize=None):
        item = dataset(prepared, mode=mode, resize=resize, width=56, max_views=9 if mode == 'test' else None)
        found = item[0] if mode == 'test' else item[request(num_views=9, ratio=0.75)]
        return dict(zip(found.view_names[0], found.images[0], strict=True))
    whole = {mode: {kind: images(mode, kind) for kind in (None, 'area', 'lanczos', 'bicubic')} for mode in ('train', 'test')}
    for mode, own in (('train', 'area'), ('test', 'lanczos')):
        assert all(found.equal(whole[mode][own][name]) for name, found in whole[mode][None].items())
        kinds = [torch.stack(list(whole[mode][kind].values())).float() for kind in ('area', 'lanczos', 'bicubic')]
        assert all((one - other).abs().mean() > 0.1 for one, other in combinations(kinds, 2))
    with pytest.raises(ConfigError, match="one of lanczos, area, bicubic, got 'nearest'"):
        dataset(prepared, resize='nearest')


def test_stride_without_any_frame_is_an_error(prepared, monkeypatch):
    monkeypatch.setattr(SceneFolder, 'frames', SceneFolder(prepared / 'scene0000_00').frames[1:])
    with pytest.raises(DataError, match='every=100'):
        dataset(prepared, every=100)[request()]


def test_stride_that_the_prepared_frames_do_not_have_is_an_error(prepared, monkeypatch):
    data = dataset(prepared, mode='test', every=20)
    monkeypatch.setitem(data.scenes[0].record.settings, 'every', 30)
    with pytest.raises(DataError, match='every 30th frame.*divides 20'):
        data[0]


def test_stride_that_frames_exported_by_others_do_not_have_is_an_error(tmp_path):
    raw = write_raw(tmp_path / 'raw', num_frames=19, lost=())
    export_frames(raw / 'scans' / 'scene0000_00', tmp_path / 'exported' / 'scene0000_00', skip=3)
    prepare_scannet(raw, tmp_path / 'out', every=1, frames=tmp_path / 'exported')
    assert dataset(tmp_path / 'out', mode='test', every=6)[0].view_names[0] == ['0', '6', '12', '18']
    with pytest.raises(DataError, match='every=2 is asked for, the scene has every 3th frame'):
        dataset(tmp_path / 'out', mode='test', every=2)[0]
    with pytest.raises(DataError, match=r'view_spacing=\(1, 6\) .* every 3th'):
        dataset(tmp_path / 'out', view_spacing=(1, 6))


def test_spacing_is_checked_when_training_data_are_opened(tmp_path):
    prepare_scannet(write_raw(tmp_path / 'raw', num_frames=13, lost=(9,)), tmp_path / 'out', every=3)
    data = dataset(tmp_path / 'out', view_spacing=(3, 6))
    for draw in range(8):
        numbers = sorted(int(name) for name in data[request(draw, 2)].view_names[0])
        assert numbers[1] - numbers[0] in (3, 6)
    with pytest.raises(DataError, match=r'scene0000_00: view_spacing=\(1, 6\) .* every 3th'):
        dataset(tmp_path / 'out', view_spacing=(1, 6))
    assert len(dataset(tmp_path / 'out', view_spacing=(1, 6), mode='test')) == 1


def test_batches_join(prepared):
    data = dataset(prepared)
    samples = [data[request(draw)] for draw in range(3)]
    batch = collate_scenes(samples)
    assert batch.images.shape == (3, 5, 3, 56, 84) and len(batch.instances) == len(batch.scene_names) == 3
    assert torch.equal(batch.depth_m[1], samples[1].depth_m[0])
    samples[1].depth_m = None
    assert collate_scenes(samples).depth_m is None


def test_loader_with_workers_gives_what_one_process_gives(prepared):
    data = dataset(prepared, transform={'type': 'TrainViews'})
    runs = []
    for workers in (0, 2):
        sampler = ViewBatchSampler(len(data), seed=1, max_images=6, views=(2, 3))
        loader = torch.utils.data.DataLoader(data, batch_sampler=sampler, num_workers=workers,
                                             collate_fn=collate_scenes)
        runs.append([batch.images for batch, _ in zip(loader, range(3), strict=False)])
    assert all(torch.equal(a, b) for a, b in zip(*runs, strict=True))


def test_scene_without_annotation_gives_images_and_geometry(prepared, tmp_path):
    shutil.copytree(prepared, tmp_path / 'out')
    scene = SceneFolder(tmp_path / 'out' / 'scene0000_00')
    text = (scene.path / 'scene.json').read_text()
    start, end = text.index('"instances": ['), text.index(', "settings"')
    (scene.path / 'scene.json').write_text(text[:start] + '"instances": null' + text[end:])
    values = dataset(tmp_path / 'out', mode='test')[0]
    assert values.instances is None and values.instance_ids is None
    assert values.ground_truth[0].depth_m.shape == (8, 48, 64)


def test_metainfo_names_classes(prepared):
    info = dataset(prepared).metainfo
    assert info['benchmark'] == 'scannet20' and len(info['classes']) == 18 and info['scene_names'] == ['scene0000_00']


def test_missing_data_says_how_to_get_it(tmp_path, prepared):
    with pytest.raises(DataError, match=r'tools/prepare.py scannet .*--profile rooms'):
        SceneDataset('scannet', 'train', 'scannet20', 84, data_root=tmp_path)
    with pytest.raises(DataError, match=r'prepare.py rooms --preset tiny --out .*rooms/tiny'):
        SceneDataset('rooms/tiny', 'train', 'scannet20', 84, data_root=tmp_path)
    with pytest.raises(DataError, match='The splits there are: train, val'):
        dataset(prepared, split='test')
    shutil.copytree(prepared, tmp_path / 'out')
    shutil.rmtree(tmp_path / 'out' / 'scene0000_00')
    with pytest.raises(DataError, match='1 of 1 scenes are missing, first scene0000_00'):
        dataset(tmp_path / 'out')


def test_wrong_options_are_refused(prepared):
    with pytest.raises(ConfigError, match='mode'):
        dataset(prepared, mode='val')
    with pytest.raises(ConfigError, match='multiple'):
        dataset(prepared, width=100)
    with pytest.raises(ConfigError, match='TrainViews has no argument'):
        dataset(prepared, transform={'type': 'TrainViews', 'bright': 1})


def test_what_is_not_read_of_a_split_is_said(prepared, monkeypatch):
    assert dataset(prepared, mode='test').left_aside() == []
    few = dataset(prepared, mode='test', every=2, max_views=2, limit_scenes=1)
    frames = len(few.scenes[0].frames)
    assert few.left_aside() == [f'2 of {frames} frames are views (every=2, max_views=2, view_step=None)']
    monkeypatch.setattr(SceneDataset, 'listed_names', lambda self: ['scene0000_00', 'scene0001_00'])
    assert dataset(prepared, limit_scenes=1).left_aside() == ['the first 1 of 2 scenes of the list (limit_scenes)']
    line = data_line(dict(test_dataset=dict(type='SceneDataset')), 'test_dataset', few)
    assert line.endswith(f'1 scenes; 2 of {frames} frames are views (every=2, max_views=2, view_step=None)')


def test_objects_that_a_benchmark_has_no_word_for_are_background_or_instances_without_a_name(prepared):
    """Of chair, table, office chair and a strange thing; wall and floor are known, and ignored."""
    own = dict(benchmark='rooms_known', width=84)
    plain, masks = (dataset(prepared, **own, **more)[request()] for more in ({}, dict(unnamed='masks')))
    names = {item.id: item.label for item in SceneFolder(prepared / 'scene0000_00').instances}
    assert {names[int(number)] for number in plain.instances[0].ids} == {'chair', 'table'}
    of_label = dict(zip((names[int(number)] for number in masks.instances[0].ids), masks.instances[0].labels.tolist(),
                        strict=True))
    assert set(of_label) == {'chair', 'table', 'office chair', 'strange thing'}
    assert [of_label[name] for name in ('office chair', 'strange thing')] == [UNNAMED] * 2 and of_label['chair'] >= 0
    assert set(masks.instance_ids.unique().tolist()) - {0, -1} > set(plain.instance_ids.unique().tolist()) - {0, -1}
    assert UNNAMED not in dataset(prepared, **own, unnamed='masks', mode='test')[0].instances[0].labels
    with pytest.raises(ConfigError, match='unnamed must be one of background, masks'):
        dataset(prepared, unnamed='ignored')


def test_stuff_is_classes_after_the_things_and_one_object_of_each_in_a_scene(tmp_path):
    prepared = tmp_path / 'out'
    prepare_scannet(write_raw(tmp_path), prepared, every=1)
    plain, data = (dataset(prepared, **more) for more in ({}, dict(stuff=('floor', 'wall'))))
    assert data.metainfo['classes'][-2:] == ('floor', 'wall') and len(data.metainfo['classes']) == 20
    assert data.metainfo['stuff'] == ('floor', 'wall') and plain.metainfo['stuff'] == ()
    batch, other = data[request()], plain[request()]
    labels = batch.instances[0].labels.tolist()
    assert [labels.count(18), labels.count(19)] == [1, 1] and len(labels) == len(other.instances[0].labels) + 2
    ids = dict(zip(labels, batch.instances[0].ids.tolist(), strict=True))
    assert (batch.instance_ids == ids[18]).sum() > 1000
    things = np.isin(other.instance_ids, other.instances[0].ids)
    assert batch.instance_ids[torch.from_numpy(things)].equal(other.instance_ids[torch.from_numpy(things)])
    with pytest.raises(ConfigError, match="no stuff 'flor', or it is named twice. Did you mean 'floor'"):
        dataset(prepared, stuff=('flor',))
    assert data.same_stuff(data.scenes[0]) == {}                           # one floor, one wall
    chair = ids[get_benchmark('scannet20').class_names.index('chair')]
    data.class_index = lambda scene: {ids[18]: 18, chair: 18, ids[19]: 19}                  # the chair is floor, too
    first, other = sorted([ids[18], chair])
    assert data.same_stuff(data.scenes[0]) == {other: first}
    joined = data[request()]
    assert sorted(joined.instances[0].ids.tolist()) == sorted([first, ids[19]])
    both = (batch.instance_ids == ids[18]) | (batch.instance_ids == chair)
    assert (joined.instance_ids == first).equal(both)
