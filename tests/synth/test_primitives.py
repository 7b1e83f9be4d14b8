import numpy as np
import pytest

import jrs.synth.styles  # noqa: F401  enters all makers into FURNITURE
from jrs.synth.pieces import FURNITURE, Piece, about_x, about_z
from jrs.synth.primitives import BOX, ELLIPSOID, FRUSTUM, Part, Solids, hit_ball, hit_box, hit_frustum, local_normals
from jrs.synth.renderer import trace
from jrs.synth.scan import label_table
from jrs.synth.textures import TEXTURES, Material, MaterialTable, plain

TAPER = 0.6
SHAPES = {
    BOX: (hit_box, lambda p: np.abs(p).max(axis=-1) - 1),
    ELLIPSOID: (hit_ball, lambda p: np.linalg.norm(p, axis=-1) - 1),
    FRUSTUM: (lambda *ray: hit_frustum(*ray, taper=TAPER),
              lambda p: np.maximum(np.hypot(p[..., 0], p[..., 1]) - 0.8 + 0.2 * p[..., 2], np.abs(p[..., 2]) - 1)),
}


def rays(count=400):
    random = np.random.default_rng(0)
    origin = np.array([2.5, -1.8, 1.3])
    directions = random.normal(size=(1, count, 3)) * 0.9 - origin
    return origin, directions


@pytest.mark.parametrize('kind', SHAPES)
def test_hits_agree_with_marching_along_the_ray(kind):
    hit, outside = SHAPES[kind]
    origin, directions = rays()
    with np.errstate(divide='ignore', invalid='ignore'):
        found = hit(origin, *np.moveaxis(directions, -1, 0))[0]
    steps = np.linspace(0, 2, 4001)
    inside = outside(origin + steps[:, None, None] * directions) <= 0                   # (steps, rays)
    first = np.where(inside.any(axis=0), steps[inside.argmax(axis=0)], np.inf)
    touched = np.isfinite(first)
    assert touched.sum() > 100 and (~touched).sum() > 20
    assert np.isfinite(found[touched]).all()
    np.testing.assert_allclose(found[touched], first[touched], atol=6e-4)
    assert np.isinf(found[~touched]).mean() > 0.97          # marching misses rays that graze


@pytest.mark.parametrize('kind', SHAPES)
def test_normals_point_outwards_and_across_the_surface(kind):
    hit, outside = SHAPES[kind]
    origin, directions = rays()
    with np.errstate(divide='ignore', invalid='ignore'):
        distance = hit(origin, *np.moveaxis(directions, -1, 0))[0]
    good = np.isfinite(distance)
    points = (origin + distance[good, None] * directions[0, good])
    normals = local_normals(np.full(len(points), kind), np.full(len(points), TAPER), points)
    normals /= np.linalg.norm(normals, axis=1, keepdims=True)
    assert (outside(points + 1e-3 * normals) > 0).all()
    assert ((normals * directions[0, good]).sum(axis=1) < 1e-6).mean() > 0.99


def test_trace_finds_the_nearest_of_rotated_solids_at_the_right_depth():
    turned = about_z(30) @ about_x(20)
    parts = [Part(BOX, np.diag([5.0, 5.0, 0.1]), np.array([0, 0, 5.0]), plain(1, 1, 1)),
             Part(ELLIPSOID, turned @ np.diag([0.5, 0.5, 0.5]), np.array([0, 0, 3.0]), plain(1, 0, 0))]
    x = np.linspace(-0.5, 0.5, 41) + 1e-4
    depth, index = trace(Solids(parts, [0, 1]), np.eye(3), np.zeros(3), x, x)
    assert index[20, 20] == 1 and index[0, 0] == 0
    np.testing.assert_allclose(depth[20, 20], 2.5, atol=1e-3)
    np.testing.assert_allclose(depth[0, 0], 4.9, atol=1e-5)


@pytest.mark.parametrize('name', TEXTURES)
def test_every_texture_blends_between_its_two_colours(name):
    points = np.random.default_rng(0).normal(size=(200, 3))
    table = MaterialTable([Material(name, (0.1, 0.1, 0.1), (0.9, 0.9, 0.9), 3.0)])
    colours = table.albedo(np.zeros(200, int), points)
    assert (colours >= 0.1 - 1e-9).all() and (colours <= 0.9 + 1e-9).all()
    assert (colours.std() > 0.02) == (name not in ('flat', 'emissive'))


@pytest.mark.parametrize('maker', FURNITURE)
def test_a_piece_has_a_known_label_and_repeats_with_its_seed(maker):
    first, second = (FURNITURE[maker](np.random.default_rng(3)) for _ in range(2))
    others = [FURNITURE[maker](np.random.default_rng(seed)) for seed in range(4, 8)]
    assert first.label in label_table()
    for one, two in zip(first.parts, second.parts, strict=True):
        np.testing.assert_array_equal(one.matrix, two.matrix)
        assert one.material == two.material
    assert not all(np.array_equal(first.bounds(), other.bounds()) for other in others)
    low, high = first.bounds()
    assert -0.06 < low[2] < 0.05 and high[2] < 2.4 and (high - low > 0).all()


def test_bounds_hold_all_parts():
    piece = Piece('box')
    piece.box((1, 2, 3), (0, 0, 0), plain(1, 1, 1), turn=90)
    np.testing.assert_allclose(piece.bounds(), [[-1, -0.5, 0], [1, 0.5, 3]], atol=1e-12)
