"""Small inputs of the parts: two views of 16 x 24 pixels in patches of 8, six queries, two instances, five classes."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from jrs.structures import (
    IMAGES,
    FeatureTaps,
    GeometryTargets,
    Instances,
    InstanceTable,
    InstanceTargets,
    LayerState,
    MatchedAttention,
    Predictions,
    QueryPredictions,
    Reconstruction,
    SceneBatch,
    SceneContext,
    SceneGroundTruth,
)

VIEWS, PATCH, GRID, SIZE = 2, 8, (2, 3), (16, 24)
DIM, DIM_IN, LAYERS, EMBEDDING, CLASSES, QUERIES = 16, 32, 2, 16, 5, 6
MASK_SIZE = (8, 12)


def seeded(*shape: int) -> Tensor:
    """Return random numbers of `shape` in [0, 1), the same for the same shape."""
    return torch.rand(shape, generator=torch.Generator().manual_seed(len(shape)))


def taps(num_scenes: int = 2, views: int = VIEWS, part: object = None, factor: int = 1) -> FeatureTaps:
    """Return four taps with one special token before and one behind the patches of each view.

    Args:
        part: of which `reads` are there too: images, and maps of the shapes that it says (`map_shapes`).
        factor: of the grid.
    """
    grid, size = tuple(factor * side for side in GRID), tuple(factor * side for side in SIZE)
    tokens = grid[0] * grid[1] + 2
    maps = [(seeded(num_scenes, views, tokens, DIM_IN) + number).requires_grad_() for number in range(4)]
    features = FeatureTaps(maps, torch.arange(1, tokens - 1), grid, size, geometry_tokens=maps[-1][:, :, 0],
                           wanted=frozenset((*getattr(part, 'reads', ()), *getattr(part, 'leaves', ()))))
    features.leave(IMAGES, seeded(num_scenes, views, 3, *size))
    for name in {*getattr(part, 'reads', ())} - {IMAGES}:
        features.leave(name, seeded(num_scenes, views, *part.map_shapes(grid)[name]).requires_grad_())
    return features


def layer_states(num_scenes: int = 2, views: int = VIEWS) -> list[LayerState]:
    """Return the states of all layers: one token of no view, then one special token and the patches of each view."""
    per_view = GRID[0] * GRID[1] + 1
    view_index = torch.cat([torch.tensor([-1]), torch.arange(views).repeat_interleave(per_view)])       # (T,)
    is_patch = torch.cat([torch.tensor([False]), (torch.arange(per_view) > 0).repeat(views)])
    return [LayerState(index, seeded(num_scenes, len(view_index), DIM) - index, view_index, is_patch, views)
            for index in range(LAYERS)]


def query_predictions(views: int = VIEWS, learn: bool = False, auxiliary: int = 1,
                      classes: str = 'softmax') -> QueryPredictions:
    """Return what queries say of one scene in training: no mask logits, one auxiliary level."""
    attention = seeded(LAYERS, QUERIES, views) + 0.1
    found = QueryPredictions(
        embedding=(seeded(QUERIES, EMBEDDING) - 0.5).requires_grad_(learn),
        class_logits=(seeded(QUERIES, CLASSES + (classes == 'softmax')) * 4).requires_grad_(learn), classes=classes,
        view_attention=(attention / attention.sum(dim=-1, keepdim=True)).requires_grad_(learn),
        features=(seeded(views, EMBEDDING, *MASK_SIZE) - 0.5).requires_grad_(learn))
    found.auxiliary = [query_predictions(views, learn, 0, classes) for _ in range(auxiliary)]
    return found


def scene_context(views: int = VIEWS, reads: tuple[str, ...] = ('queries',)) -> SceneContext:
    """Return what a model predicts of one scene: features, sizes, and of the rest what `reads` names."""
    queries, seen = query_predictions(views, auxiliary=0), reconstruction(views)
    features, queries.features = queries.features, None
    points = dict(points=seeded(views, *SIZE, 3), points_conf=seen.depth_conf) if 'points' in reads else {}
    depth = dict(depth=seen.depth, depth_conf=seen.depth_conf) if 'depth' in reads else {}
    cameras = dict(cam_from_world=seen.cam_from_world, intrinsics=seen.intrinsics) if 'cameras' in reads else {}
    return SceneContext(queries if 'queries' in reads else None, features, SIZE, **depth, **points, **cameras,
                        scene_name='scene0')


def instance_targets(views: int = VIEWS, instances: int = 2) -> InstanceTargets:
    """Return true instances of one scene, each in one view only, so that others have exactly no share of it."""
    masks = torch.zeros(instances, views, *MASK_SIZE, dtype=torch.bool)
    for number in range(instances):
        masks[number, number % views, 2 * number:2 * number + 3] = True
    pixels = masks.flatten(2).sum(dim=2).float()                                                        # (G, V)
    return InstanceTargets(torch.arange(instances) % CLASSES, masks, pixels / pixels.sum(dim=1, keepdim=True).clamp_min(1),
                           ids=torch.arange(1, instances + 1))


def cameras(num_scenes: int = 1, views: int = VIEWS) -> tuple[Tensor, Tensor]:
    """Return cam_from_world (B, V, 4, 4) and intrinsics (B, V, 3, 3) of cameras side by side that look along z."""
    cam_from_world = torch.eye(4).expand(num_scenes, views, 4, 4).clone()
    cam_from_world[..., 0, 3] = 0.1 * torch.arange(views)
    height, width = SIZE
    intrinsics = torch.tensor([[width, 0, (width - 1) / 2], [0, width, (height - 1) / 2], [0, 0, 1.0]])
    return cam_from_world, intrinsics.expand(num_scenes, views, 3, 3)


def scene_batch(num_scenes: int = 1, views: int = VIEWS) -> SceneBatch:
    """Return a wall two metres away with two instances on it, and what it is scored against."""
    shape = (num_scenes, views)
    cam_from_world, intrinsics = cameras(num_scenes, views)
    ids = torch.zeros(*shape, *SIZE, dtype=torch.int64)
    ids[..., 2:8, 2:12], ids[..., 9:14, 12:20] = 1, 2
    return SceneBatch(
        images=seeded(*shape, 3, *SIZE), scene_names=[f'scene{scene}' for scene in range(num_scenes)],
        view_names=[[str(view) for view in range(views)]] * num_scenes, depth_m=torch.full((*shape, *SIZE), 2.0),
        intrinsics=intrinsics, cam_from_world=cam_from_world, instance_ids=ids,
        instances=[InstanceTable(torch.tensor([1, 2]), torch.tensor([0, 1]))] * num_scenes,
        ground_truth=[ground_truth(f'scene{scene}', views) for scene in range(num_scenes)])


def ground_truth(name: str = 'scene0', views: int = VIEWS) -> SceneGroundTruth:
    """Return the wall as a mesh of 300 vertices, of which those on the left are an instance of the first class."""
    x, y = (axis.ravel() for axis in np.meshgrid(np.linspace(-0.9, 0.9, 20), np.linspace(-0.5, 0.5, 15)))
    cam_from_world, intrinsics = (values[0].double().numpy() for values in cameras(1, views))
    return SceneGroundTruth(
        scene_name=name, vertices=np.stack([x, y, np.full(len(x), 2.0)], axis=1),
        vertex_ids=np.where(x < 0, 3001, 0), superpoints=np.arange(len(x)) // 5,
        depth_m=np.full((views, *SIZE), 2.0, np.float32), depth_intrinsics=intrinsics, cam_from_world=cam_from_world,
        input_from_depth=np.stack([np.eye(3)] * views))


def instances(views: int = VIEWS) -> Instances:
    """Return two scored instances."""
    return Instances(instance_targets(views).masks, torch.tensor([0, 1]), torch.tensor([0.9, 0.5]), torch.tensor([3, 1]))


def reconstruction(views: int = VIEWS) -> Reconstruction:
    """Return what a model could have made of a scene of `scene_batch`."""
    batch = scene_batch(1, views)
    return Reconstruction(
        images=batch.images[0], depth=batch.depth_m[0] * 0.5, depth_conf=1 + seeded(views, *SIZE),
        intrinsics=batch.intrinsics[0], cam_from_world=batch.cam_from_world[0], features=query_predictions(views).features,
        instances=instances(views), view_names=batch.view_names[0], matched=matched_attention(views))


def matched_attention(views: int = VIEWS) -> MatchedAttention:
    """Return where the queries of two true instances look."""
    attention = query_predictions(views).view_attention[:, :2]
    return MatchedAttention(tuple(range(LAYERS)), torch.tensor([3, 1]), instance_targets(views), attention)


def geometry_pair(valid: bool = True) -> tuple[Predictions, GeometryTargets]:
    """Return predictions of two scenes that learn, with everything a model can predict, and targets."""
    shape = (2, VIEWS, *SIZE)
    predictions = Predictions(
        pose_encodings=[seeded(2, VIEWS, 9).requires_grad_() for _ in range(2)],
        depth=(seeded(*shape) + 0.5).requires_grad_(), depth_conf=(seeded(*shape) + 1.1).requires_grad_(),
        points=(seeded(*shape, 3) + 0.5).requires_grad_(), points_conf=(seeded(*shape) + 1.1).requires_grad_(),
        extras={'metric_scale': torch.tensor([2.0, 3.0], requires_grad=True),
                'points_local': (seeded(*shape, 3) + 0.2).requires_grad_()})
    kept = torch.full(shape, valid)
    return predictions, GeometryTargets(seeded(2, VIEWS, 9) + 0.1, (seeded(*shape) + 0.7) * kept, kept,
                                        seeded(*shape, 3) + 0.2, torch.tensor([1.5, 4.0]))
