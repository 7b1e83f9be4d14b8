"""TensorBoard pictures of a training scene: input, depth, features, masks, and where queries look."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from mmengine.hooks import Hook

from jrs.engine.sharding import is_sharded
from jrs.geometry.cloud import instance_map
from jrs.registry import HOOKS
from jrs.structures import Reconstruction, SceneBatch
from jrs.visualization.attention import attention_picture, mask_visibility, query_attention
from jrs.visualization.depth import depth_picture, shared_range
from jrs.visualization.features import feature_pictures
from jrs.visualization.overlays import instance_colours, overlay_masks
from jrs.visualization.pictures import tile, to_numpy, to_picture


@HOOKS.register_module()
class SceneImages(Hook):
    """Draw the first scene of the update every `interval` iterations.

    Args:
        interval: iterations between drawings.
        max_views: at most this many views are drawn.
    """

    priority = 'LOW'

    def __init__(self, interval: int, max_views: int = 6) -> None:
        self.interval, self.max_views = interval, max_views

    def after_train_iter(self, runner, batch_idx: int, data_batch: Sequence[SceneBatch] = (), outputs=None) -> None:
        """Reconstruct the scene with the current weights and add its pictures."""
        model = getattr(runner.model, 'module', runner.model)
        alone = runner.rank != 0 and not is_sharded(model)              # a sharded model runs in all processes or in none
        if alone or not self.every_n_train_iters(runner, self.interval):
            return
        model.eval()
        scene = model.reconstruct(first_scene(data_batch[0]).to(model.data_preprocessor.device), track_views=True)[0]
        model.train()
        if runner.rank != 0:
            return
        for name, picture in scene_pictures(scene, self.max_views).items():
            runner.visualizer.add_image(f'scene/{name}', picture, step=runner.iter + 1)


def first_scene(batch: SceneBatch) -> SceneBatch:
    """Return the images of the first scene of a batch."""
    return SceneBatch(images=batch.images[:1], scene_names=batch.scene_names[:1], view_names=batch.view_names[:1])


def scene_pictures(scene: Reconstruction, max_views: int) -> dict[str, np.ndarray]:
    """Return named pictures (H, W, 3) uint8 of a reconstruction; those of parts it lacks are left out."""
    views = range(min(max_views, len(scene.images)))
    pictures = dict(input=tile([to_picture(scene.images[view]) for view in views], columns=len(views)))
    if scene.depth is not None:
        near, far = shared_range(scene.depth)
        pictures['depth'] = tile([depth_picture(scene.depth[view], near, far) for view in views], columns=len(views))
    if scene.features is not None:
        pictures['features'] = tile(list(feature_pictures(scene.features)[:len(views)]), columns=len(views))
    if scene.instances is not None and len(scene.instances.scores):
        ids = to_numpy(instance_map(scene.instances.packed))
        colours = instance_colours(len(scene.instances.scores))
        pictures['masks'] = tile([overlay_masks(scene.images[view], ids[view], colours) for view in views],
                                 columns=len(views))
        if scene.view_attention is not None:
            top = slice(0, 12)
            attention = query_attention(scene.view_attention, scene.instances.queries[top])
            visibility = mask_visibility(scene.instances.packed[top].dense())
            names = [f'#{index + 1}' for index in range(len(attention))]
            pictures['view_attention'] = attention_picture(attention, visibility, names, scene.images)
    return pictures
