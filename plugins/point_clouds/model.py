"""The assembled method on points: network over voxels, pooling to superpoints, decoder."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import torch
from jrs_plugins.point_clouds.batch import PointBatch, superpoint_targets
from jrs_plugins.point_clouds.decoder import PointPredictions, Superpoints, side_by_side
from jrs_plugins.point_clouds.panoptic import panoptic_map
from jrs_plugins.point_clouds.pooling import points_per_superpoint, superpoint_mean
from jrs_plugins.point_clouds.reconstructed import each_scene
from jrs_plugins.point_clouds.scene_voxels import PointContext, SceneVoxels, of_scenes
from mmengine.model import BaseModel
from torch import Tensor

from jrs.errors import ConfigError
from jrs.finite import refuse_nonfinite_terms
from jrs.registry import LOSSES, MATCHERS, MODELS, POSTPROCESSORS, build, check_keys
from jrs.structures import Instances, Predictions, Reconstruction, SceneBatch

MODES = {'tensor': 'predict_all', 'loss': 'loss', 'predict': 'reconstruct'}


@MODELS.register_module()
class PointSegmenter(BaseModel):
    """Instances of a point cloud: a network over voxels, pooling to superpoints, queries that read superpoints.

    Args:
        network: features and coordinates of voxels -> features of voxels (`SparseUNet`).
        decoder: superpoints of a scene -> predictions (`SuperpointDecoder`); its attribute `reads` says whether it wants
            'superpoints', their 'voxels' too, or also the 'levels' of the network. One with heads of voxels has a method
            `of_voxels`, which is called with those of all scenes together.
        num_classes: K.
        pooling: features of points -> of superpoints.
        matcher: assigns queries to true instances (`MATCHERS`).
        losses: named training terms (`LOSSES`); None turns a term off.
        weights: multiplier per name, shared by the cost and the loss of that name.
        postprocessor: predictions -> scored instances (`POSTPROCESSORS`).
        targets: further arguments of `superpoint_targets`, which makes the true instances.
        panoptic: arguments of `panoptic_map`, `num_stuff`, `min_score` and `min_points`, for a decoder with a semantic head
            and a query for each superpoint: predictions then have `panoptic_semantic` and `panoptic_instance`. None =
            they have not.
        reconstruction: makes points of the images of a scene, where scenes come as such (`ReconstructedPoints`): masks are
            then (M, V, H, W) over the pixels. None = scenes come as points. Training is on points either way.
    """

    def __init__(self, network: dict, decoder: dict, num_classes: int, pooling: dict | None = None,
                 matcher: dict | None = None, losses: Mapping[str, dict | None] | None = None,
                 weights: Mapping[str, float] | None = None, postprocessor: dict | None = None,
                 targets: dict | None = None, panoptic: dict | None = None, reconstruction: dict | None = None) -> None:
        super().__init__(data_preprocessor=build(MODELS, dict(type='ScenePreprocessor'), 'model.data_preprocessor'))
        self.network = build(MODELS, network, 'model.network')
        self.pooling = build(MODELS, pooling or dict(type='MeanPooling'), 'model.pooling', dim=self.network.dim_out)
        self.decoder = build(MODELS, decoder, 'model.decoder', dim_in=self.network.dim_out, num_classes=num_classes,
                             level_dims=getattr(self.network, 'level_dims', None))
        self.matcher = build(MATCHERS, matcher, 'model.matcher', weights=weights or {})
        self.criterion = build(LOSSES, dict(type='Criterion', losses=losses), 'model', weights=weights or {}) \
            if any((losses or {}).values()) else None
        self.postprocessor = build(POSTPROCESSORS, postprocessor, 'model.postprocessor')
        self.targets, self.panoptic = dict(targets or {}), panoptic
        check_keys(superpoint_targets, self.targets, 'model.targets')
        if panoptic is not None:
            check_keys(panoptic_map, panoptic, 'model.panoptic')
        self.reconstruction = build(MODELS, reconstruction, 'model.reconstruction')

    def forward(self, batch: PointBatch, mode: str = 'tensor',
                ) -> PointPredictions | dict[str, Tensor] | list[Reconstruction]:
        """Run in one of mmengine's modes: 'tensor' -> predictions, 'loss' -> named terms, 'predict' -> Reconstructions."""
        if mode not in MODES:
            raise ValueError(f'mode must be one of {", ".join(MODES)}, got {mode!r}')
        return getattr(self, MODES[mode])(batch)

    def predict_all(self, batch: PointBatch) -> PointPredictions:
        """Return what the queries say of each scene: fields are lists of B tensors."""
        return side_by_side([self.decoder(scene) for scene in self.scenes(batch)])

    def scenes(self, batch: PointBatch) -> list[Superpoints]:
        """Return the superpoints of each scene, and their voxels where the decoder reads these."""
        reads = getattr(self.decoder, 'reads', 'superpoints')
        if reads == 'levels':
            voxels, pyramid = self.network.with_levels(batch.voxel_features, batch.voxels)  # (X, C)
        else:
            voxels, pyramid = self.network(batch.voxel_features, batch.voxels), None
        count = sum(batch.num_superpoints)
        pooled = self.pooling(voxels[batch.point_voxel], batch.superpoints, count)          # (S, C)
        scenes = zip(*(values.split(batch.num_superpoints) for values in (
            pooled, superpoint_mean(batch.positions, batch.superpoints, count),
            points_per_superpoint(batch.superpoints, count))), strict=True)
        below = [None] * len(batch.scene_names) if reads == 'superpoints' else self._voxels(batch, voxels, pyramid)
        return [Superpoints(*scene, voxels=own) for scene, own in zip(scenes, below, strict=True)]

    def _voxels(self, batch: PointBatch, features: Tensor, pyramid: list | None) -> list[SceneVoxels]:
        """Return the voxels of each scene, `features` (X, C) of all, and the network's levels where there are any."""
        point = batch.voxel_points                                                          # (X,)
        scenes = range(len(batch.scene_names))
        levels = [([], [])] * len(scenes) if pyramid is None else of_scenes(pyramid, len(scenes))
        of_points = (batch.point_voxel.split(batch.num_points), batch.superpoints.split(batch.num_points))
        of_voxels = [values.split(batch.num_voxels) for values in (
            features, batch.positions[point], batch.voxels[:, 1:], batch.superpoints[point])]
        said = self.decoder.of_voxels(features) if hasattr(self.decoder, 'of_voxels') else {}
        said = {name: values.split(batch.num_voxels) for name, values in said.items()}
        found = []
        for scene in scenes:
            first_voxel, first_superpoint = (sum(counts[:scene]) for counts in (batch.num_voxels, batch.num_superpoints))
            own, positions, cells, superpoints = (values[scene] for values in of_voxels)
            found.append(SceneVoxels(
                own, positions, cells, superpoints - first_superpoint, of_points[0][scene] - first_voxel,
                of_points[1][scene] - first_superpoint, *levels[scene],
                **{name: values[scene] for name, values in said.items()}))
        return found

    def loss(self, batch: PointBatch) -> dict[str, Tensor]:
        """Return the weighted training terms of `batch` as ``loss_<name>``, and unweighted parts for the log."""
        if self.criterion is None or self.matcher is None:
            raise ConfigError('model.losses or model.matcher is empty: this config can predict but not train.')
        queries, targets = self.predict_all(batch), superpoint_targets(batch, **self.targets)
        matches = [self.matcher(queries.scene(index), target) for index, target in enumerate(targets)]
        terms = self.criterion(Predictions([], queries=queries), targets, None, matches)
        refuse_nonfinite_terms(terms, f'the scenes {", ".join(batch.scene_names)}')
        return terms

    @torch.no_grad()
    def reconstruct(self, batch: PointBatch | SceneBatch) -> list[Reconstruction]:
        """Return one Reconstruction per scene, of points with instances only: masks are (M, 1, 1, S) over its superpoints.

        Raises:
            ConfigError: images, and no `model.reconstruction` that makes points of them.
        """
        if isinstance(batch, SceneBatch):
            return self._of_images(batch)
        seen = self.scenes(batch)
        scenes = [self.decoder(scene) for scene in seen]
        found = [None if self.postprocessor is None else
                 self.postprocessor(PointContext(scene, scene_name=name, voxels=superpoints.voxels))
                 for scene, superpoints, name in zip(scenes, seen, batch.scene_names, strict=True)]
        return [Reconstruction(instances=instances, view_names=batch.view_names[index], scale='metric',
                               extras=self._panoptic(batch, index, scenes[index], instances))
                for index, instances in enumerate(found)]

    def _of_images(self, batch: SceneBatch) -> list[Reconstruction]:
        if self.reconstruction is None:
            raise ConfigError('The data set gives images, and this method sees points: set model.reconstruction, as '
                              'configs/baselines/two_stage_oneformer3d.py does.')
        found = []
        for one in each_scene(batch):
            scene, points, pixels = self.reconstruction(one)
            instances = self.reconstruct(points)[0].instances
            found.append(replace(scene, instances=None if instances is None else pixels.lifted(instances)))
        return found

    def _panoptic(self, batch: PointBatch, index: int, queries: PointPredictions,
                  instances: Instances | None) -> dict[str, Tensor]:
        """Return the semantic and the instance number (n,) of each point of a scene, where that is asked for."""
        if self.panoptic is None or instances is None:
            return {}
        given = queries.semantic_logits
        logits = torch.empty_like(given).index_copy(0, queries.elements, given)             # (S, K' + 1)
        superpoints = batch.superpoints.split(batch.num_points)[index] - sum(batch.num_superpoints[:index])
        return dict(zip(('panoptic_semantic', 'panoptic_instance'),
                        panoptic_map(instances, logits, superpoints, **self.panoptic), strict=True))
