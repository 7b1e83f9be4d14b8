"""What moves a pixel moves its camera, depth and id along."""

import cv2
import mmcv
import numpy as np
import pytest

from jrs.datasets.transforms import (
    ResizeCrop,
    TrainViews,
    crop_around_principal_point,
    height_for,
    sample_nearest,
    shift_colors,
)
from jrs.errors import ConfigError
from jrs.io.images import RESIZES, resize_lanczos

K = np.array([[1170.2, 0, 647.75], [0, 1170.2, 483.75], [0, 0, 1]])
SOURCE = (968, 1296)


def crops(count=20, size=(392, 518)):
    transform = TrainViews()
    return [transform.crop(SOURCE, K, size, np.random.default_rng(seed)) for seed in range(count)]


def test_projection_then_crop_is_projection_with_the_new_intrinsics():
    point = np.array([0.3, -0.2, 2.5])
    pixel = K @ point / point[2]
    for crop in crops():
        new = crop.matrix @ K
        np.testing.assert_allclose(new @ point / point[2], crop.matrix @ pixel, rtol=1e-12)
        np.testing.assert_allclose(np.linalg.inv(new) @ (crop.matrix @ pixel) * point[2], point, rtol=1e-10)


def random_step(image, intrinsics, rng):
    """One way that the loader changes a picture, drawn at random; returns the picture and the (3, 3) map of its pixels."""
    size, kind = image.shape[:2], rng.integers(3)
    if kind == 0:
        return resize_lanczos(image, 14 * int(rng.integers(6, 20)), 14)                  # test and inference
    out = (14 * int(rng.integers(5, 14)), 14 * int(rng.integers(5, 14)))
    crop = (TrainViews().crop(size, intrinsics, out, rng) if kind == 1 else              # training
            crop_around_principal_point(size, intrinsics, out))
    return crop.image(image), crop.matrix


def test_cameras_survive_200_chains_of_transforms():
    """A marker drawn into the picture lies, after one to four steps, where the camera that went along projects it."""
    errors, seed = [], 0
    while len(errors) < 200:
        rng, seed = np.random.default_rng(seed), seed + 1
        height, width = rng.integers(120, 260, 2)
        focal, centre = rng.uniform(100, 300), np.array([width, height]) / 2 + rng.uniform(-12, 12, 2)
        intrinsics = np.array([[focal, 0, centre[0]], [0, focal * rng.uniform(0.8, 1.25), centre[1]], [0, 0, 1]])
        point = np.array([*rng.uniform(-0.1, 0.1, 2), 1.0]) * rng.uniform(1, 5)
        u, v, _ = intrinsics @ point / point[2]
        squares = (np.arange(width) - u) ** 2 + (np.arange(height)[:, None] - v) ** 2
        image = np.repeat((250 * np.exp(-squares / (2 * 4.0 ** 2))).astype(np.uint8)[..., None], 3, axis=2)
        for _ in range(rng.integers(1, 5)):
            image, moved = random_step(image, intrinsics, rng)
            intrinsics = moved @ intrinsics
        light = np.where(image[..., 0] > 25, image[..., 0].astype(np.float64), 0)
        rows, columns = light.sum(axis=1), light.sum(axis=0)
        if light.max() < 60 or max(rows[0], rows[-1], columns[0], columns[-1]) > 0:
            continue                                                                     # cropped away, or cut
        found = [columns @ np.arange(len(columns)), rows @ np.arange(len(rows))] / light.sum()
        errors.append(np.abs(found - (intrinsics @ point / point[2])[:2]).max())
    assert seed < 400, 'too many chains lose their marker'
    assert max(errors) < 0.5 and np.mean(errors) < 0.1


def test_matrix_says_where_pixels_went():
    """A smooth ramp that stores its own coordinates reads, at each output pixel, the inverse of the matrix."""
    v, u = np.mgrid[:120, :160]
    ramp = np.stack([u, v, np.zeros_like(u)], -1).astype(np.uint8)
    for resized, offset in (((67, 89), (3, 5)), ((239, 317), (20, 7)), ((97, 143), (0, 0))):
        crop = ResizeCrop((120, 160), resized, offset, (56, 70))
        out = crop.image(ramp).astype(float)
        row, column = np.mgrid[6:50, 6:64]
        back = np.linalg.inv(crop.matrix) @ np.stack([column, row, np.ones_like(row)]).reshape(3, -1)
        read = out[row, column].reshape(-1, 3).T[:2]
        assert np.abs(read - back[:2]).max() <= 1.0                         # 8-bit values, rounded
        assert (np.abs((read - back[:2]).mean(axis=1)) < 0.15).all()           # no half-pixel shift


def test_matrix_of_a_resize_keeps_pixel_centres():
    crop = ResizeCrop((4, 8), (2, 16), (0, 0), (2, 16))
    np.testing.assert_allclose(crop.matrix @ [-0.5, -0.5, 1], [-0.5, -0.5, 1])          # outer corners stay corners
    np.testing.assert_allclose(crop.matrix @ [7.5, 3.5, 1], [15.5, 1.5, 1])


def test_principal_point_ends_at_the_centre_and_nothing_is_padded():
    for size in ((392, 518), (168, 518), (518, 518)):
        for crop in crops(size=size):
            assert crop.size == size
            assert np.abs((crop.matrix @ K)[:2, 2] - [(size[1] - 1) / 2, (size[0] - 1) / 2]).max() <= 0.5 + 1e-9
            corners = np.linalg.inv(crop.matrix) @ [[-0.5, size[1] - 0.5], [-0.5, size[0] - 0.5], [1, 1]]
            assert corners.min() >= -0.5 - 1e-9
            assert corners[0].max() <= 1295.5 + 1e-9 and corners[1].max() <= 967.5 + 1e-9


def test_crop_keeps_at_least_the_share_that_section_16_allows():
    widths = []
    for crop in crops(200):
        widths.append(518 / crop.resized[1])
    assert 0.8 / 1.32 < min(widths) < 0.75 and max(widths) > 0.97


def test_square_pixels_stay_square():
    for crop in crops():
        new = crop.matrix @ K
        assert abs(new[0, 0] / new[1, 1] - 1) < 2e-3


def test_plain_crop_is_the_largest():
    crop = crop_around_principal_point((84, 112), np.array([[90, 0, 55.5], [0, 90, 41.5], [0, 0, 1]]), (84, 112))
    np.testing.assert_allclose(crop.matrix, np.eye(3), atol=1e-12)


def test_principal_point_outside_is_refused():
    with pytest.raises(ConfigError, match='another resolution'):
        crop_around_principal_point((84, 112), K, (84, 112))


def test_nearest_never_mixes_values_and_fills_outside():
    values = np.array([[1, 100], [7, 0]], np.int32)
    twice = np.array([[2, 0, 0.5], [0, 2, 0.5], [0, 0, 1]])
    expected = [[1, 1, 100, 100], [1, 1, 100, 100], [7, 7, 0, 0], [7, 7, 0, 0]]
    assert sample_nearest(values, twice, (4, 4)).tolist() == expected
    shifted = np.array([[1, 0, 1], [0, 1, 0], [0, 0, 1.0]])
    assert sample_nearest(values, shifted, (2, 3), fill=-1).tolist() == [[-1, 1, 100], [-1, 7, 0]]


@pytest.mark.parametrize('ratio, width, patch, height', [(0.33, 518, 14, 168), (1.0, 518, 14, 518), (0.75, 112, 14, 84),
                                                         (0.57, 100, 1, 57), (0.05, 112, 14, 14)])
def test_height_is_a_multiple_of_the_patch(ratio, width, patch, height):
    assert height_for(ratio, width, patch) == height


def test_colors_come_from_the_generator_alone():
    images = [np.random.default_rng(0).integers(0, 255, (8, 9, 3)).astype(np.uint8)] * 3
    runs = [TrainViews().colors(images, np.random.default_rng(5)) for _ in range(2)]
    np.testing.assert_array_equal(runs[0], runs[1])


def test_views_share_a_change_of_color_most_of_the_time():
    image = np.random.default_rng(0).integers(0, 255, (8, 9, 3)).astype(np.uint8)
    shared = 0
    for seed in range(200):
        first, second = TrainViews().colors([image, image], np.random.default_rng(seed))
        shared += np.array_equal(first, second)
    assert 0.62 < shared / 200 < 0.80                                       # 0.7, and both unchanged now and then


def test_color_steps_do_what_they_say():
    image = np.random.default_rng(0).integers(60, 190, (16, 16, 3)).astype(np.uint8)
    bright = shift_colors(image, [('brightness', 0.5)], gray=False)
    np.testing.assert_allclose(bright, image * 0.5, atol=0.51)
    flat = shift_colors(image, [('contrast', 0.0)], gray=False)
    assert flat.std() < 1
    gray = shift_colors(image, [('saturation', 0.0)], gray=False)
    np.testing.assert_array_equal(gray, shift_colors(image, [], gray=True))
    assert np.ptp(gray, axis=2).max() == 0
    red = np.full((2, 2, 3), [200, 40, 40], np.uint8)
    np.testing.assert_allclose(shift_colors(red, [('hue', 1 / 3)], gray=False)[0, 0], [40, 200, 40], atol=1)
    assert shift_colors(image, [], gray=False) is image


@pytest.mark.parametrize('kind', RESIZES)
@pytest.mark.parametrize('width', [42, 112])
def test_one_filter_makes_the_same_pixels_of_training_and_test_views(kind, width):
    image = np.random.default_rng(0).integers(0, 256, (48, 64, 3), dtype=np.uint8)
    tested, matrix = RESIZES[kind](image, width, 14)
    whole = ResizeCrop((48, 64), tested.shape[:2], (0, 0), tested.shape[:2], kind)
    assert (whole.image(image) == tested).all() and np.allclose(whole.matrix, matrix)
    assert kind == 'area' or (ResizeCrop((48, 64), tested.shape[:2], (0, 0), tested.shape[:2]).image(image) != tested).any()


@pytest.mark.parametrize('size', [(28, 42), (70, 98)])
def test_images_are_resized_by_opencv_whatever_backend_mmcv_is_told_to_use(size):
    image = np.random.default_rng(0).integers(0, 256, (48, 64, 3), dtype=np.uint8)
    crop = ResizeCrop((48, 64), size, (0, 0), size)
    rule = cv2.INTER_AREA if size[0] < 48 else cv2.INTER_CUBIC
    mmcv.use_backend('pillow')
    try:
        assert (crop.image(image) == cv2.resize(image, size[::-1], interpolation=rule)).all()
        input_image, _ = resize_lanczos(image, size[1], 14)
    finally:
        mmcv.use_backend('cv2')
    assert (input_image == cv2.resize(image, input_image.shape[1::-1], interpolation=cv2.INTER_LANCZOS4)).all()
