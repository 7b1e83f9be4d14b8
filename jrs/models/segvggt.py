"""The assembled model: reads like the figure in the paper."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import replace

import torch
from mmengine.model import BaseDataPreprocessor, BaseModel
from torch import Tensor, nn

from jrs.errors import ConfigError, PluginError, did_you_mean
from jrs.finite import refuse_nonfinite, refuse_nonfinite_terms
from jrs.geometry.camera import in_first_frame, predicted_cameras, relative_to_first
from jrs.layers.kernels import naming_kernels
from jrs.layers.layout import evenly_spaced
from jrs.masks import mask_logits
from jrs.models.attention import matched_attention
from jrs.models.naming import named, named_regions
from jrs.models.targets import instance_targets
from jrs.registry import (
    ALIGNMENTS,
    BACKBONES,
    HEADS,
    LOSSES,
    MATCHERS,
    MODELS,
    POSTPROCESSORS,
    PRETEXTS,
    QUERIES,
    TEACHERS,
    build,
)
from jrs.structures import (
    IMAGES,
    FeatureTaps,
    InstanceTargets,
    Match,
    MatchedAttention,
    Predictions,
    Priors,
    QueryPredictions,
    Reconstruction,
    SceneBatch,
    SceneContext,
    maps_read,
    unit_images,
)

# In the order in which they run: a part may read what one before it leaves.
PARTS_IN_ORDER = ('geometry_head', 'camera_head', 'depth_head', 'point_head', 'scale_head', 'feature_head', 'queries',
                  'class_head')
# What of predictions is ranked, matched, scored or exported, and must be finite for that.
READ_OF_VIEWS = ('intrinsics', 'depth', 'depth_conf', 'points', 'points_conf', 'features')
READ_OF_QUERIES = ('class_logits', 'embedding', 'class_embedding', 'scores', 'mask_logits', 'view_attention')
BROKEN = ('The weights are broken, of another model, or too large for the precision (model.autocast=None is float32): '
          'nothing is ranked, scored or written.')


@MODELS.register_module()
class ScenePreprocessor(BaseDataPreprocessor):
    """Moves a `SceneBatch` to the model's device, unpacks it there and hands it on as ``forward(batch=...)``."""

    def forward(self, data: SceneBatch, training: bool = False) -> dict[str, SceneBatch]:
        """Return ``{'batch': data}`` on this device, unpacked; the copy of a pinned batch runs beside what the host does."""
        return {'batch': data.to(self.device, non_blocking=True).unpacked()}


@MODELS.register_module()
class SegVGGT(BaseModel):
    """Joint reconstruction and instance segmentation: queries read a backbone's image tokens layer by layer.

    Every part comes from its registry; what is None is left out, in training and in prediction: its fields of `Predictions`
    and `Reconstruction` are None, and only what reads them says that it needs the part. Queries need `feature_head`, which
    gives their masks, and `class_head`. Instances come from the postprocessor, which may do without queries: then a
    `class_head` names them by the mean instance feature of their masks, and learns that from the true ones.

    Heads run in the order of the arguments below, then queries, then `class_head`: a part may read maps of those before it.

    Args:
        backbone: images -> layer states, then taps for the heads (`BACKBONES`).
        camera_head, depth_head: taps -> cameras, depth (`HEADS`).
        point_head: taps -> points and their confidence (`HEADS`).
        geometry_head: taps -> all geometry at once, as `Predictions`, instead of these three (`HEADS`).
        scale_head: taps -> metres per unit (B,) of what these two read, by which it is multiplied: depth and cameras are
            then in metres, and are still supervised in units of the scene (`HEADS`).
        pretext: further training terms from what blocks of the backbone see and from the teacher's geometry (`PRETEXTS`).
        queries: how queries are initialised and updated (`QUERIES`).
        feature_head, class_head: taps -> instance features; embeddings -> class logits (`HEADS`).
        num_classes: K.
        matcher: assigns queries to true instances (`MATCHERS`); only losses of matched queries need it.
        losses: named training terms (`LOSSES`); None turns a term off.
        weights: multiplier per name, shared by the cost and the loss of that name.
        alignment: divergence between view attention and view visibility (`ALIGNMENTS`), shared likewise.
        levels: 'sum' or 'mean' of the losses over levels of queries that are deeply supervised (`MaskDecoder`).
        teacher: images -> geometry that supervises (`TEACHERS`).
        postprocessor: what was predicted for a scene -> scored instances (`POSTPROCESSORS`); None = no instances.
        key_views: in prediction, queries read so many of the views at most, evenly spaced, at least 2; masks are made in
            all. None = they read all.
        frozen: names of parts that do not learn, such as 'geometry_head'; a backbone has `freeze` of its own beside.
        min_target_pixels: a true instance needs this many mask pixels in the sampled views to be a target.
        autocast: dtype in which the backbone and the queries run ('bfloat16'), or None for float32. Heads, masks, losses
            and matching are always float32.
    """

    def __init__(self, backbone: dict, camera_head: dict | None = None, depth_head: dict | None = None,
                 queries: dict | None = None, feature_head: dict | None = None, class_head: dict | None = None,
                 num_classes: int = 0, matcher: dict | None = None, losses: dict | None = None,
                 weights: dict | None = None, alignment: dict | None = None, teacher: dict | None = None,
                 postprocessor: dict | None = None, min_target_pixels: int = 1, autocast: str | None = None,
                 geometry_head: dict | None = None, pretext: dict | None = None, scale_head: dict | None = None,
                 levels: str = 'sum', point_head: dict | None = None, key_views: int | None = None,
                 frozen: Sequence[str] = ()) -> None:
        super().__init__(data_preprocessor=ScenePreprocessor())
        self.backbone = build(BACKBONES, backbone, 'model.backbone')
        offers = dict(dim=self.backbone.embed_dim, num_layers=self.backbone.num_query_layers,
                      dim_in=self.backbone.feature_dim, patch_size=self.backbone.patch_size, num_classes=num_classes,
                      num_special=getattr(self.backbone, 'num_special', 0),
                      layer_kinds=getattr(self.backbone, 'layer_kinds', None), tap_dims=_tap_dims(self.backbone))
        self.camera_head = build(HEADS, camera_head, 'model.camera_head', **offers)
        self.depth_head = build(HEADS, depth_head, 'model.depth_head', **offers)
        self.point_head = build(HEADS, point_head, 'model.point_head', **offers)
        self.geometry_head = build(HEADS, geometry_head, 'model.geometry_head', **offers)
        self.scale_head = build(HEADS, scale_head, 'model.scale_head', **offers)
        if geometry_head is not None and (camera_head is not None or depth_head is not None or point_head is not None):
            raise ConfigError('model.geometry_head gives cameras, depth and points: set model.camera_head, model.depth_head '
                              'and model.point_head to None.')
        if geometry_head is not None and scale_head is not None:
            raise ConfigError('model.geometry_head gives cameras and depth in a unit of its own: set model.scale_head to '
                              'None.')
        self.pretext = build(PRETEXTS, pretext, 'model.pretext', **offers)
        if self.pretext is not None:
            self.pretext.prepare(self.backbone)
        if queries is not None and (feature_head is None or class_head is None):
            lacking = [f'model.{name}' for name, head in (('feature_head', feature_head), ('class_head', class_head))
                       if head is None]
            raise ConfigError(f'model.queries needs {" and ".join(lacking)}: masks are inner products of queries and '
                              'instance features, and scores come from classes. Set the head, or set model.queries=None.')
        if queries is None and class_head is not None and feature_head is None:
            raise ConfigError('model.class_head without model.queries names masks by their instance features: it needs '
                              'model.feature_head. Set that, or set model.class_head=None.')
        self.queries = build(QUERIES, queries, 'model.queries', **offers)
        self.feature_head = build(HEADS, feature_head, 'model.feature_head', **offers)
        self.class_head = build(HEADS, class_head, 'model.class_head', **offers)
        self.alignment = build(ALIGNMENTS, alignment, 'model.alignment')
        self.matcher = build(MATCHERS, matcher, 'model.matcher', weights=weights or {}, alignment=self.alignment)
        self.criterion = build(LOSSES, dict(type='Criterion', losses=losses, levels=levels), 'model', weights=weights or {},
                               alignment=self.alignment) if any((losses or {}).values()) else None
        self.teacher = build(TEACHERS, teacher, 'model.teacher')
        self.postprocessor = build(POSTPROCESSORS, postprocessor, 'model.postprocessor')
        self._freeze(frozen)
        self.maps_wanted = self._maps_wanted()
        self._check_postprocessor()
        self.min_target_pixels = min_target_pixels
        if key_views is not None and key_views < 2:
            raise ConfigError(f'model.key_views is at least 2, or None for all views, got {key_views}.')
        self.key_views = key_views
        self.reports_matches = False           # True while a metric reads `Reconstruction.matched`
        self.autocast_dtype = _dtype(autocast)

    @property
    def reads_maps(self) -> frozenset[str]:
        """The maps of a batch (`jrs.structures.MAPS`) that it reads: ids to match, and what the teacher reads."""
        matched = self.queries is not None or (self.criterion is not None and self.criterion.reads_instances)
        own = {'instance_ids'} if matched else frozenset()
        return maps_read([] if self.teacher is None else [self.teacher]) | own

    def _freeze(self, names: Sequence[str]) -> None:
        """Let nothing of the parts `names` learn; a ConfigError where there is no such part."""
        parts = {name: part for name in ('backbone', *PARTS_IN_ORDER) if (part := getattr(self, name)) is not None}
        for name in names:
            if name not in parts:
                raise ConfigError(f'model.frozen names {name!r}, and the parts are {", ".join(parts)}.'
                                  f'{did_you_mean(name, parts)}')
            parts[name].requires_grad_(False)

    def _maps_wanted(self) -> frozenset[str]:
        """Return the names of maps that parts read; a ConfigError where nothing that comes before leaves one."""
        there, wanted = {IMAGES, *getattr(self.backbone, 'leaves', ())}, set()
        for name in PARTS_IN_ORDER:
            part = getattr(self, name)
            lacking = sorted({*getattr(part, 'reads', ())} - there)
            if lacking:
                raise ConfigError(f'model.{name}: {type(part).__name__} reads the map {lacking[0]!r}, and there are '
                                  f'{", ".join(map(repr, sorted(there)))}: take a head before it that leaves this map.')
            wanted |= {*getattr(part, 'reads', ())}
            there |= {*getattr(part, 'leaves', ())}
        return frozenset(wanted)

    def _check_postprocessor(self) -> None:
        """Raise a ConfigError where the postprocessor reads what no part predicts."""
        heads = dict(queries=['queries'], features=['feature_head'], depth=['depth_head', 'geometry_head'],
                     points=['point_head', 'geometry_head'], cameras=['camera_head', 'geometry_head'])
        for name in () if self.postprocessor is None else getattr(self.postprocessor, 'reads', ('queries',)):
            if all(getattr(self, head) is None for head in heads[name]):
                raise ConfigError(f'model.postprocessor: {type(self.postprocessor).__name__} reads {name}, and there is no '
                                  f'model.{" or model.".join(heads[name])}. Set it, or set model.postprocessor=None.')

    def forward(self, batch: SceneBatch, mode: str = 'tensor') -> Predictions | dict[str, Tensor] | list[Reconstruction]:
        """Run in one of mmengine's modes: 'tensor' -> Predictions, 'loss' -> named terms, 'predict' -> Reconstructions."""
        modes = {'tensor': self.predict_all, 'loss': self.loss, 'predict': self.reconstruct}
        if mode not in modes:
            raise ValueError(f'mode must be one of {", ".join(modes)}, got {mode!r}')
        return modes[mode](batch)

    def predict_all(self, batch: SceneBatch, track_views: bool = False) -> Predictions:
        """Return everything one pass over `batch` gives, mask logits included."""
        predictions = self.forward_images(batch.images, track_views)
        for level in [] if predictions.queries is None else predictions.queries.levels:
            level.mask_logits = mask_logits(level.embedding, predictions.features)          # (B, Q, V, h, w)
        return predictions

    def forward_images(self, images: Tensor, track_views: bool = False, priors: Priors | None = None) -> Predictions:
        """images (B, V, 3, H, W), uint8 or in [0, 1] -> Predictions; masks: `predict_all`; priors: `reconstruct`."""
        state = self.read_layers(images, track_views, priors=priors)
        taps = self.backbone.features()
        predictions = self.run_heads(taps, images)
        if self.queries is not None:
            predictions.queries = self.finish_queries(state, taps, predictions.features)
        return predictions

    def run_heads(self, taps: FeatureTaps, images: Tensor) -> Predictions:
        """Return what all heads say that read taps (B, V, P, C); the queries say nothing yet.

        Maps that parts read are in `taps` afterwards, `images` (B, V, 3, H, W) among them.
        """
        taps.wanted = self.maps_wanted
        taps.leave(IMAGES, unit_images(images))
        predictions = self._geometry(taps)
        if self.feature_head is not None:
            predictions.features = self.feature_head(taps)                                  # (B, V, D, h, w)
        return predictions

    def _geometry(self, taps: FeatureTaps) -> Predictions:
        """Return cameras, depth, points and confidences, as far as there are heads; the world is the first camera.

        The unit is the backbone's where its own head reads them, metres by a scale head, else arbitrary.
        """
        if self.geometry_head is not None:
            predictions = replace(self.geometry_head(taps), scale=self.backbone.scale)
        else:
            encodings = self.camera_head(taps) if self.camera_head is not None else []
            predictions = Predictions(encodings, *(self.depth_head(taps) if self.depth_head is not None else ()))
            if self.point_head is not None:
                predictions.points, predictions.points_conf = self.point_head(taps)
        if self.scale_head is not None:
            scale = self.scale_head(taps)                                                   # (B,)
            predictions = replace(predictions.scaled(scale), scale='metric', extras={'metric_scale': scale})
        if not self.backbone.has_reference_view and predictions.pose_encodings:
            if predictions.points is not None:
                predictions.points = in_first_frame(predictions.points, predictions.pose_encodings[-1])
            predictions.pose_encodings = [relative_to_first(encoding) for encoding in predictions.pose_encodings]
        return predictions

    def read_layers(self, images: Tensor, track_views: bool = False, watch: Callable | None = None,
                    priors: Priors | None = None):
        """Run the backbone over images (B, V, 3, H, W) while the queries read it; return what they know in the end.

        Images are uint8 or in [0, 1]. `watch(state, layer)` sees the state of the queries and the `LayerState` of each layer
        before it is read.
        """
        images, passed, keys = unit_images(images), [], self._keys(images.shape[1], images.device)
        state = self.queries.start(images.shape[0], track_views) if self.queries is not None else None
        with self.autocast(images.device), naming_kernels():
            for layer in self.backbone.layers(images, *(() if priors is None else (priors,))):
                passed.append(layer.index)
                if watch is not None:
                    watch(state, layer)
                if self.queries is not None:
                    state = self.queries.read(state, layer if keys is None else layer.select(keys))
        _check_layers(self.backbone, passed)
        return state

    def finish_queries(self, state, taps: FeatureTaps, features: Tensor) -> QueryPredictions:
        """Return embeddings and class logits for a `state` of the queries; instance features are (B, V, D, h, w)."""
        keys, classes = self._keys(features.shape[1], features.device), getattr(self.class_head, 'classes', 'softmax')
        read = (taps, features) if keys is None else (taps.select(keys), features[:, keys])
        queries = self.queries.finish(state, *read)
        if keys is not None and queries.view_attention is not None:
            attention = queries.view_attention.new_zeros(*queries.view_attention.shape[:-1], features.shape[1])
            queries.view_attention = attention.index_copy(-1, keys, queries.view_attention)     # (L, B, Q, V)
        for level in queries.levels:
            read = level.embedding if level.class_embedding is None else level.class_embedding
            level.class_logits, level.classes = self.class_head(read), classes              # (B, Q, K + 1), or (B, Q, K)
            level.features = features
        return queries

    def _keys(self, num_views: int, device: torch.device) -> Tensor | None:
        """Return the views (n,) int64 that queries read; None = all."""
        if self.training or self.key_views is None or num_views <= self.key_views:
            return None
        return evenly_spaced(num_views, self.key_views, device)

    def loss(self, batch: SceneBatch) -> dict[str, Tensor]:
        """Return the weighted training terms of `batch` as ``loss_<name>``, and unweighted parts for the log."""
        if self.criterion is None:
            raise ConfigError('model.losses is empty: this config can predict but not train. Name at least one term.')
        batch = batch.unpacked()
        with nullcontext() if self.pretext is None else self.pretext.watching(self.backbone) as notes:
            predictions = self.forward_images(batch.images, track_views=self.alignment is not None)
        geometry = self.teacher(batch) if self.teacher is not None else None
        targets, matches = None, None
        if predictions.features is not None and self.criterion.reads_instances:
            targets = instance_targets(batch, predictions.features.shape[-2:], self.min_target_pixels)
            predictions.queries, matches = self._matched(predictions, targets, batch.classes)
        terms = self.criterion(predictions.in_units(), targets, geometry, matches)
        if self.pretext is not None:
            if geometry is None:
                raise ConfigError('model.pretext is told geometry, and there is none: set model.teacher, or '
                                  'model.pretext=None.')
            terms |= self.pretext(notes, geometry)
        refuse_nonfinite_terms(terms, f'the scenes {", ".join(batch.scene_names)}, views {batch.view_names}')
        return terms

    def _matched(self, predictions: Predictions, targets: list[InstanceTargets],
                 classes: Tensor | None) -> tuple[QueryPredictions | None, list[Match] | None]:
        """Return what is compared with the true instances, and with which of them.

        Without queries that is the true masks themselves where a class head names them. `classes` (B, K) bool are those that
        the labels of a scene could be; None = any.
        """
        queries, matches = predictions.queries, None
        if queries is None and self.class_head is not None:
            queries, matches = named_regions(self.class_head, predictions.features, targets)
        if queries is not None and classes is not None:
            queries.say_only(classes)
        return queries, self.match(queries, targets) if matches is None else matches

    def match(self, queries: QueryPredictions | None, targets: list) -> list[Match] | None:
        """Return the assignment of queries to true instances in each scene; None without queries or matcher."""
        if queries is None or self.matcher is None:
            return None
        return [self.matcher(queries.scene(index), target) for index, target in enumerate(targets)]

    @torch.no_grad()
    def reconstruct(self, batch: SceneBatch, track_views: bool = False,
                    priors: Priors | None = None) -> list[Reconstruction]:
        """Return one Reconstruction per scene: cameras, depth, features and scored instances, as far as there are heads.

        Args:
            batch: of which only the images are read.
            track_views: also `view_attention`.
            priors: what is known of the geometry of these views, for a backbone that `takes_priors`.

        Raises:
            NonFiniteError: something of it is NaN or infinite (`check_predictions`).
        """
        batch = batch.unpacked()
        reports_matches = self.reports_matches and self.queries is not None and self.matcher is not None
        predictions = self.forward_images(batch.images, track_views or reports_matches, priors)
        check_predictions(predictions, batch)
        matched = matched_attention(self, predictions.queries, batch) if reports_matches else None
        return self.reconstructed(batch, predictions, matched)

    def reconstructed(self, batch: SceneBatch, predictions: Predictions,
                      matched: list[MatchedAttention] | None = None) -> list[Reconstruction]:
        """Return one Reconstruction per scene of what was predicted for it, instances by the postprocessor."""
        cameras = (None, None)
        if predictions.pose_encodings:
            cameras = predicted_cameras(predictions, batch.images.shape[-2:])   # (B, V, 4, 4), (B, V, 3, 3)
        return [self._scene(batch, predictions, cameras, index, matched) for index in range(batch.images.shape[0])]

    def _scene(self, batch: SceneBatch, predictions: Predictions, cameras: tuple[Tensor | None, Tensor | None],
               index: int, matched: list[MatchedAttention] | None) -> Reconstruction:
        def own(values):
            return None if values is None else values[index]
        seen = self.context(batch, predictions, cameras, index)
        instances = None if self.postprocessor is None else self.postprocessor(seen)
        if instances is not None and self.queries is None and self.class_head is not None:
            instances = named(self.class_head, instances, seen.features)
        if instances is not None and not getattr(self.postprocessor, 'scores_are_finite', False):
            refuse_nonfinite({'scores of instances': instances.scores}, f'the reconstruction of {batch.scene_names[index]}',
                             BROKEN)
        return Reconstruction(images=batch.images[index], depth=seen.depth, depth_conf=seen.depth_conf,
                              intrinsics=seen.intrinsics, cam_from_world=seen.cam_from_world, features=seen.features,
                              instances=instances, view_names=batch.view_names[index],
                              view_attention=None if seen.queries is None else seen.queries.view_attention,
                              matched=own(matched), scale=predictions.scale,
                              extras={name: value[index] for name, value in predictions.extras.items()})

    def context(self, batch: SceneBatch, predictions: Predictions, cameras: tuple[Tensor | None, Tensor | None],
                index: int) -> SceneContext:
        """Return what a postprocessor sees of scene `index`.

        `cameras` are `cam_from_world` (B, V, 4, 4) and intrinsics (B, V, 3, 3) of all scenes, or None.
        """
        def own(values):
            return None if values is None else values[index]
        return SceneContext(
            queries=None if predictions.queries is None else predictions.queries.scene(index),
            features=own(predictions.features), image_size=tuple(batch.images.shape[-2:]), depth=own(predictions.depth),
            depth_conf=own(predictions.depth_conf), points=own(predictions.points), points_conf=own(predictions.points_conf),
            intrinsics=own(cameras[1]), cam_from_world=own(cameras[0]), valid=own(batch.valid),
            scene_name=batch.scene_names[index])

    def autocast(self, device: torch.device):
        """Return the context in which the backbone and the queries run."""
        if self.autocast_dtype is None:
            return nullcontext()
        return torch.autocast(device.type, dtype=self.autocast_dtype, cache_enabled=False)   # each weight is used once

    def narrow(self) -> SegVGGT:
        """Keep weights that are only used in autocast in that dtype: half the memory, the same numbers; for inference.

        These are linear and convolution layers of the backbone and the queries; what a part names in `full_precision`, and
        parts without that attribute, stay as they are.
        """
        for part in (self.backbone, self.queries) if self.autocast_dtype is not None else ():
            if hasattr(part, 'full_precision'):
                _narrow(part, self.autocast_dtype)
        return self


def _narrow(part: nn.Module, dtype: torch.dtype) -> None:
    for name, module in part.named_modules():
        if isinstance(module, nn.Linear | nn.Conv2d) and not name.startswith(part.full_precision):
            for parameter in module.parameters(recurse=False):
                parameter.requires_grad_(False).data = parameter.data.to(dtype)


def _tap_dims(backbone: nn.Module) -> tuple[int, ...]:
    """Return the width of each tap of a backbone."""
    return tuple(getattr(backbone, 'tap_dims', None) or [backbone.feature_dim] * len(backbone.feature_layers))


def _check_layers(backbone: nn.Module, passed: list[int]) -> None:
    """Raise PluginError where a backbone did not hand over every layer once, in order: queries would miss some."""
    if passed != list(range(backbone.num_query_layers)):
        raise PluginError(f'model.backbone: {type(backbone).__name__} has num_query_layers {backbone.num_query_layers} and '
                          f'handed over the layers {passed}; these must be 0 .. {backbone.num_query_layers - 1}, in order.')


def check_predictions(predictions: Predictions, batch: SceneBatch) -> None:
    """Raise a NonFiniteError where predictions for a batch are NaN or infinite, before anything is ranked or matched.

    What is not finite compares as False: the scene would have no instances, and an average precision of 0.
    """
    parts: dict[str, Tensor | None] = {}
    if predictions.pose_encodings:
        cameras = predicted_cameras(predictions, batch.images.shape[-2:])       # finite encodings may be of no camera
        parts = dict(zip(('cameras', 'cam_from_world', 'intrinsics of cameras'), (predictions.pose_encodings[-1], *cameras),
                         strict=True))
    parts |= {name: getattr(predictions, name) for name in READ_OF_VIEWS}
    if predictions.queries is not None:
        parts |= {name: getattr(predictions.queries, name) for name in READ_OF_QUERIES}
    refuse_nonfinite(parts, f'what the model predicts for {", ".join(batch.scene_names)}', BROKEN)


def _dtype(name: str | None) -> torch.dtype | None:
    dtypes = {None: None, 'float32': None, 'bfloat16': torch.bfloat16}
    if name not in dtypes:
        raise ConfigError(f"model.autocast must be None, 'float32' or 'bfloat16', got {name!r}.")
    return dtypes[name]
