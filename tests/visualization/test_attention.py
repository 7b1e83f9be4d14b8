"""Maps of attention over the photos mean what their captions say."""

import numpy as np
import torch

from jrs.visualization.attention import HEAD, MARGIN, OUTLINE, attention_maps_picture, heat_overlay, outlined
from tests.small_scene import HEIGHT, VIEWS, WIDTH, small_scene


def test_a_mask_is_outlined_and_its_inside_left_alone():
    photo = np.full((40, 60, 3), 90, np.uint8)
    mask = np.zeros((20, 30), bool)
    mask[5:12, 8:20] = True
    drawn = outlined(photo, mask)
    line = (drawn == OUTLINE).all(-1)
    assert line.any() and not line[10:24, 16:40].any() and (drawn[~line] == 90).all()
    np.testing.assert_array_equal(outlined(photo, mask & False), photo)


def test_heat_is_brightest_where_attention_is():
    overlay = heat_overlay(np.full((16, 24, 3), 128, np.uint8), np.array([[0.0, 0, 5], [0, 0, 0]])).astype(int).sum(-1)
    assert overlay[0, -1] == overlay.max() and overlay[-1, 0] == overlay.min() < overlay.max()


def test_a_picture_has_a_row_per_view_and_a_column_per_map():
    scene = small_scene()
    maps = {name: torch.zeros(VIEWS, 2, 3) for name in ('layer 0', 'layer 1')}
    maps['layer 1'][2, 1, 2] = 1
    share = {name: torch.tensor([0.2, 0.3, 0.5]) for name in maps}
    mask, visibility = scene.instances.masks[1], torch.tensor([1.0, 0, 0])
    sheet = attention_maps_picture(scene.images, mask, scene.view_names, maps, share, visibility)
    zoom = 224 // WIDTH
    rows, columns = (sheet.shape[0] - HEAD) // VIEWS, (sheet.shape[1] - MARGIN) // 3
    assert rows == HEIGHT * zoom + 4 and columns == WIDTH * zoom + 4
    cells = sheet[HEAD:].reshape(VIEWS, rows, -1, 3)[:, :, MARGIN:].reshape(VIEWS, rows, 3, columns, 3).swapaxes(1, 2)
    assert [[bool((cell == OUTLINE).all(-1).any()) for cell in row] for row in cells] == \
        [[True] * 3, [False] * 3, [False] * 3]
    corner = cells[:, :, rows - 40:rows - 8, columns - 40:columns - 8].astype(int).sum((-3, -2, -1))
    assert corner[2, 2] > 2 * corner[2, 1] and corner[:2, 2].max() < corner[2, 2]    # only where the map has its mass
