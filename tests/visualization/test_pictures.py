"""Pictures of depth, masks, features, attention and clouds mean what their captions say."""

import numpy as np
import pytest
import torch

from jrs.visualization.attention import attention_picture, heat_colours, mask_visibility, query_attention
from jrs.visualization.cloud import GROUND, render_cloud, scene_frame
from jrs.visualization.depth import INVALID, depth_bar, depth_picture, scalar_picture, shared_range
from jrs.visualization.features import feature_pictures
from jrs.visualization.overlays import instance_colours, legend, overlay_masks
from jrs.visualization.pictures import scale_to, tile, to_picture
from tests.small_scene import small_scene


def test_images_of_either_order_and_type_become_rgb():
    image = torch.rand(3, 4, 5)
    picture = to_picture(image)
    assert picture.shape == (4, 5, 3) and picture.dtype == np.uint8
    np.testing.assert_array_equal(to_picture(picture), picture)
    assert to_picture(torch.full((3, 2, 2), float('nan')).bfloat16()).max() == 0
    with pytest.raises(ValueError, match='an image is'):
        to_picture(torch.rand(4, 4))


def test_tiles_keep_their_order():
    sheet = tile([np.full((2, 3, 3), value, np.uint8) for value in (10, 20, 30)], columns=2, gap=1)
    assert sheet.shape == (5, 7, 3)
    assert (sheet[0, 0, 0], sheet[0, 4, 0], sheet[3, 0, 0], sheet[3, 4, 0]) == (10, 20, 30, 255)


def test_near_is_warm_and_no_reading_is_grey():
    depth = np.array([[0.0, 1.0, 4.0, np.nan]], np.float32)
    picture = depth_picture(depth, *shared_range(depth, depth > 0)).astype(int)
    assert tuple(picture[0, 0]) == INVALID and tuple(picture[0, 3]) == INVALID
    assert picture[0, 1, 0] > picture[0, 1, 2] and picture[0, 2, 2] > picture[0, 2, 0]
    assert depth_bar(1, 4).ndim == 3
    assert shared_range(np.zeros((2, 2)), np.zeros((2, 2))) == (0.0, 1.0)
    constant = scalar_picture(np.ones((2, 2)), *shared_range(np.ones((2, 2))))
    assert (constant == constant[0, 0]).all()


def test_colours_of_instances_differ_and_do_not_depend_on_their_number():
    colours = instance_colours(40)
    assert len({tuple(colour) for colour in colours}) == 40
    np.testing.assert_array_equal(instance_colours(5), colours[:5])
    assert instance_colours(0).shape == (0, 3)
    assert legend(['chair', 'table'], colours[:2]).dtype == np.uint8


def test_masks_are_tinted_outlined_and_the_rest_is_grey():
    ids = np.zeros((4, 4), int)
    ids[1:3, 1:3] = 1
    picture = overlay_masks(np.full((8, 8, 3), 100, np.uint8), ids, np.array([[255, 0, 0]], np.uint8), opacity=1.0)
    assert tuple(picture[3, 3]) == (255, 0, 0)
    assert tuple(picture[5, 3]) == (255, 255, 255)
    assert len(set(picture[0, 0].tolist())) == 1


def test_one_object_has_one_feature_colour_in_all_views():
    objects = np.random.default_rng(0).normal(size=(4, 16))
    where = np.random.default_rng(1).integers(0, 4, (3, 6, 8))
    pictures = feature_pictures(objects[where].transpose(0, 3, 1, 2))                   # (V, D, h, w)
    for index in range(4):
        assert len(np.unique(pictures[where == index], axis=0)) == 1
    assert len(np.unique(pictures.reshape(-1, 3), axis=0)) == 4


def test_features_of_any_width_and_constant_ones_have_pictures():
    assert feature_pictures(torch.rand(1, 1, 4, 4)).shape == (1, 4, 4, 3)
    assert (feature_pictures(torch.ones(2, 5, 4, 4)) == 128).all()
    assert feature_pictures(torch.full((1, 3, 2, 2), float('nan'))).shape == (1, 2, 2, 3)


def test_view_attention_follows_the_query_of_each_instance():
    scene = small_scene()
    rows = query_attention(scene.view_attention, scene.instances.queries)
    np.testing.assert_allclose(rows, scene.view_attention.mean(0)[[4, 2]], rtol=1e-5)
    visible = mask_visibility(scene.instances.masks)
    np.testing.assert_allclose(visible, [[1 / 3, 1 / 3, 1 / 3], [1, 0, 0]])
    heat = heat_colours(np.array([[0.2, 0.8], [0.0, 0.0]])).astype(int)
    assert heat[0, 1].sum() > heat[0, 0].sum() > heat[1, 0].sum()
    assert attention_picture(rows, visible, ['chair', 'table'], scene.images).dtype == np.uint8


def plane(z, colour, count=40):
    grid = np.stack(np.meshgrid(np.linspace(-1, 1, count), np.linspace(-1, 1, count)), -1).reshape(-1, 2)
    return np.column_stack([grid, np.full(len(grid), z)]), np.tile(np.array([colour], np.uint8), (len(grid), 1))


def test_near_surface_hides_the_far_one():
    (near, red), (far, blue) = plane(2.0, (255, 0, 0)), plane(4.0, (0, 0, 255))
    points, colours = np.concatenate([far, near]), np.concatenate([blue, red])
    frame = scene_frame(points, np.eye(4)[None])
    centre = render_cloud(points, colours, *frame, yaw=0, pitch=0, size=(60, 60))[25:35, 25:35]
    assert (centre[..., 2] == 0).all() and centre[..., 0].min() > 100
    behind = render_cloud(points, colours, *frame, yaw=180, pitch=0, size=(60, 60))[25:35, 25:35]
    assert (behind[..., 0] == 0).all()


def test_backs_of_surfaces_are_left_out():
    points, colours = plane(2.0, (255, 0, 0))
    frame, normals = scene_frame(points, np.eye(4)[None]), np.tile([0.0, 0.0, -1.0], (len(points), 1))
    assert (render_cloud(points, colours, *frame, 0, 0, (40, 40), normals) != GROUND).any()
    assert (render_cloud(points, colours, *frame, 180, 0, (40, 40), normals) == GROUND).all()


def test_frame_stands_upright_behind_the_cameras():
    axes, centre, radius = scene_frame(plane(3.0, (0, 0, 0))[0], np.eye(4)[None])
    np.testing.assert_allclose(axes, [[1, 0, 0], [0, -1, 0], [0, 0, -1]], atol=1e-9)
    np.testing.assert_allclose(centre, [0, 0, 3], atol=0.1)
    opposite = np.stack([np.eye(4), np.diag([-1.0, 1, -1, 1])])             # cameras that look opposite ways
    assert np.isfinite(scene_frame(np.zeros((0, 3)), opposite)[0]).all() and radius > 0
    empty = render_cloud(np.zeros((0, 3)), np.zeros((0, 3), np.uint8), *scene_frame(np.zeros((0, 3)), opposite))
    assert (empty == GROUND).all()


def test_id_maps_are_scaled_without_new_ids():
    ids = np.array([[0, 7], [3, 0]], np.int32)
    assert set(np.unique(scale_to(ids, 9, 7, smooth=False))) == {0, 3, 7}
