"""A floor with four boxes on it, seen from a circle of cameras: mesh, exact depth and exact instance images."""

import numpy as np
import torch

from jrs.structures import Instances, InstanceTable, Reconstruction, SceneBatch, SceneGroundTruth

BOXES = np.array([[[0.7, 0.7, 0.0], [1.3, 1.4, 0.8]], [[2.4, 0.8, 0.0], [3.2, 1.5, 0.5]],
                  [[0.8, 2.5, 0.0], [1.6, 3.1, 0.6]], [[2.5, 2.5, 0.0], [3.1, 3.2, 1.0]]])
CLASS_INDICES = np.array([2, 2, 4, 7])                      # any indices that the benchmark has
INPUT_SIZE, DEPTH_SIZE = (112, 154), (120, 160)
FLOOR_SIZE = 4.0


def make_truth(benchmark, num_views=8, name='box'):
    """Return the ground truth of the scene; superpoints are the faces of the boxes and patches of the floor."""
    vertices, owner, superpoints = _mesh()
    class_ids = np.array(benchmark.class_ids)[CLASS_INDICES]
    vertex_ids = np.where(owner > 0, class_ids[np.maximum(owner - 1, 0)] * 1000 + owner, 0)
    poses = _cameras(num_views)
    intrinsics = _intrinsics(DEPTH_SIZE)
    depth = np.stack([_render(pose, intrinsics, DEPTH_SIZE)[0] for pose in poses])
    scale = np.array(INPUT_SIZE[::-1]) / np.array(DEPTH_SIZE[::-1])
    input_from_depth = np.diag([*scale, 1.0])
    input_from_depth[:2, 2] = 0.5 * scale - 0.5
    return SceneGroundTruth(name, vertices, vertex_ids, superpoints, depth.astype(np.float32),
                            np.stack([intrinsics] * num_views), poses, np.stack([input_from_depth] * num_views))


def make_batch(benchmark, num_views=8, names=('box',)):
    """Return a batch with as many copies of the scene as `names`."""
    truths = [make_truth(benchmark, num_views, name) for name in names]
    intrinsics = _intrinsics(INPUT_SIZE)
    rendered = [_render(pose, intrinsics, INPUT_SIZE) for pose in truths[0].cam_from_world]
    depth, ids = (torch.from_numpy(np.stack(parts)) for parts in zip(*rendered, strict=True))
    count = len(names)
    table = InstanceTable(torch.arange(1, len(BOXES) + 1), torch.from_numpy(CLASS_INDICES.copy()))
    return SceneBatch(
        images=torch.zeros(count, num_views, 3, *INPUT_SIZE), scene_names=list(names),
        view_names=[[str(view) for view in range(num_views)]] * count, depth_m=torch.stack([depth.float()] * count),
        cam_from_world=torch.stack([torch.from_numpy(truths[0].cam_from_world).float()] * count),
        instance_ids=torch.stack([ids] * count), instances=[table] * count, ground_truth=truths)


def make_reconstruction(batch, index, instances):
    """Return a reconstruction with perfect geometry of half the size, and the given instances."""
    poses = batch.cam_from_world[index].clone()
    poses[:, :3, 3] *= 0.5
    return Reconstruction(batch.images[index], 0.5 * batch.depth_m[index], torch.ones_like(batch.depth_m[index]),
                          torch.eye(3).repeat(poses.shape[0], 1, 1), poses, None, instances, batch.view_names[index])


def true_instances(batch, index, scores=None):
    """Return the true instances at half resolution, as predictions."""
    table, images = batch.instances[index], batch.instance_ids[index][:, 1::2, 1::2]
    masks = torch.stack([images == number for number in table.ids])
    scores = torch.ones(len(masks)) if scores is None else scores
    return Instances(masks, table.labels.clone(), scores, torch.arange(len(masks)))


def _mesh():
    floor = _grid(FLOOR_SIZE, FLOOR_SIZE, 0.04)
    points = [np.column_stack([floor, np.zeros(len(floor))])]
    owners, faces = [np.zeros(len(floor), dtype=np.int64)], [np.floor(floor) @ [1000, 10000]]
    for number, (low, high) in enumerate(BOXES, start=1):
        for axis in range(3):
            others = [other for other in range(3) if other != axis]
            grid = _grid(*(high - low)[others], 0.03)
            for side in (0, 1) if axis < 2 else (1,):                        # nobody sees the underside
                face = np.empty((len(grid), 3))
                face[:, others] = low[others] + grid
                face[:, axis] = (low, high)[side][axis]
                points.append(face)
                owners.append(np.full(len(face), number))
                faces.append(np.full(len(face), number * 10.0 + axis * 2 + side))
    superpoints = np.unique(np.concatenate(faces), return_inverse=True)[1]
    return np.concatenate(points), np.concatenate(owners), superpoints


def _grid(width, height, step):
    x, y = np.meshgrid(np.arange(step / 2, width, step), np.arange(step / 2, height, step))
    return np.column_stack([x.ravel(), y.ravel()])


def _cameras(num_views):
    poses = []
    for angle in np.arange(num_views) * 2 * np.pi / num_views:
        centre = np.array([2 + 2.6 * np.cos(angle), 2 + 2.6 * np.sin(angle), 2.2])
        forward = np.array([2.0, 2.0, 0.2]) - centre
        forward /= np.linalg.norm(forward)
        right = np.cross(forward, [0, 0, 1])
        right /= np.linalg.norm(right)
        pose = np.eye(4)
        pose[:3, :3] = np.stack([right, np.cross(forward, right), forward])
        pose[:3, 3] = -pose[:3, :3] @ centre
        poses.append(pose)
    return np.stack(poses)


def _intrinsics(size):
    height, width = size
    return np.array([[0.9 * width, 0, width / 2 - 0.5], [0, 1.2 * height, height / 2 - 0.5], [0, 0, 1]])


def _render(cam_from_world, intrinsics, size):
    """Return z-depth (H, W), 0 where nothing is, and instance numbers (H, W)."""
    u, v = np.meshgrid(np.arange(size[1]), np.arange(size[0]))
    rays = np.stack([u, v, np.ones(size)], axis=-1) @ np.linalg.inv(intrinsics).T @ cam_from_world[:3, :3]   # (H, W, 3)
    centre = -cam_from_world[:3, :3].T @ cam_from_world[:3, 3]
    depth = np.where(rays[..., 2] < 0, -centre[2] / rays[..., 2], np.inf)
    on_floor = centre[:2] + depth[..., None] * rays[..., :2]
    depth[~((on_floor > 0) & (on_floor < FLOOR_SIZE)).all(axis=-1)] = np.inf
    ids = np.zeros(size, dtype=np.int64)
    for number, (low, high) in enumerate(BOXES, start=1):
        near, far = (low - centre) / rays, (high - centre) / rays
        enter, leave = np.minimum(near, far).max(axis=-1), np.maximum(near, far).min(axis=-1)
        hit = (enter < leave) & (enter > 0) & (enter < depth)
        depth[hit], ids[hit] = enter[hit], number
    return np.where(np.isfinite(depth), depth, 0.0), ids
