"""What the stages of jrs hand to each other: every field with its shape, unit and frame of reference.

Alphabet: B scenes, V views, H x W pixels, P tokens per view, T = V * P, L query layers, Q queries, G true instances,
K classes, D instance-feature channels, M predicted instances, N points; h x w is the resolution of masks.
Frames of reference are OpenCV's (x right, y down, z forward); `cam_from_world` maps world to camera coordinates.
Pixel centres are at integer coordinates.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, fields, replace

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from jrs.errors import PluginError
from jrs.masks import MaskLogits

IMPOSSIBLE = -1e4                              # a finite logit whose probability, loss and gradient are 0 in float32
UNNAMED = -1                                   # label of an instance that has no name: its mask is true, its class unknown
MAPS = ('depth_m', 'instance_ids')             # what is true of each pixel: loaded where some part reads it, see `maps_read`


class Moves:
    """Gives a dataclass of tensors a `to(device)`, a `pin_memory()` and a `share_memory()`."""

    def to(self, device: torch.device | str, non_blocking: bool = False):
        """Return the same structure with all tensors on `device`; `non_blocking` as of ``Tensor.to``."""
        return self._each(lambda tensor: tensor.to(device, non_blocking=non_blocking))

    def pin_memory(self):
        """Return the same structure with all tensors in page-locked memory; ``DataLoader(pin_memory=True)`` calls it."""
        return self._each(lambda tensor: tensor.pin_memory())

    def share_memory(self):
        """Return the same structure with all tensors in memory that other processes can open."""
        return self._each(lambda tensor: tensor.share_memory_())

    def _each(self, change: Callable[[Tensor], Tensor]):
        return type(self)(**{f.name: _changed(getattr(self, f.name), change) for f in fields(self)})


def _changed(value, change: Callable[[Tensor], Tensor]):
    if isinstance(value, Tensor):
        return change(value)
    if isinstance(value, Moves):
        return value._each(change)
    if isinstance(value, (list, tuple)):
        return type(value)(_changed(item, change) for item in value)
    if isinstance(value, dict):
        return {key: _changed(item, change) for key, item in value.items()}
    return value


@dataclass
class InstanceTable(Moves):
    """Which instances a scene has: `ids` (G,) int64 as in the id images, `labels` (G,) int64 class indices 0..K-1.

    In training a label may be `UNNAMED`.
    """

    ids: Tensor
    labels: Tensor


@dataclass
class SceneGroundTruth:
    """What a scene is scored against: the benchmark mesh, and the true geometry of the views that were used. Numpy.

    Attributes:
        scene_name: for messages and result files.
        vertices: (N, 3) float64, metres, world of `cam_from_world`.
        vertex_ids: (N,) int64, class id * 1000 + instance number, 0 = void (data.md section 4.3).
        superpoints: (N,) int64, 0 .. S-1 without gaps; None where the benchmark has none.
        depth_m: (V, Hd, Wd) float32 sensor z-depth in metres at its own resolution, 0 = no reading.
        depth_intrinsics: (V, 3, 3) of the depth images.
        cam_from_world: (V, 4, 4) of the depth cameras.
        input_from_depth: (V, 3, 3) affine map of depth-image pixels (u, v, 1) to pixels of the network input; both
            with pixel centres at integers.
        excluded: (E,) int64, vertices that do not exist for scoring (ScanNet++'s mesh mask); None = all exist.
        source: what the vertices are, in words for tables of results.
    """

    scene_name: str
    vertices: np.ndarray
    vertex_ids: np.ndarray
    superpoints: np.ndarray | None
    depth_m: np.ndarray
    depth_intrinsics: np.ndarray
    cam_from_world: np.ndarray
    input_from_depth: np.ndarray
    excluded: np.ndarray | None = None
    source: str = 'mesh'


@dataclass
class SceneBatch(Moves):
    """Views of B scenes, with ground truth where the data set has it.

    Batches travel packed, images as uint8 and ids as int16, from the data set through the loader's workers to the device:
    metrics and hooks see them so. There `unpacked` makes of them what models compute with. The data preprocessor calls it,
    and so do the doors of the model (`forward`, `loss`, `reconstruct`, `forward_images`): who calls the model directly may
    give either. Parts of the model, teachers among them, get unpacked batches.

    Attributes:
        images: (B, V, 3, H, W) RGB, uint8 0 .. 255 or float32 in [0, 1]; H and W are multiples of the patch size.
        scene_names: B names, for messages and result files.
        view_names: B lists of V names.
        depth_m: (B, V, H, W) float32 z-depth in metres, 0 = no reading; or None, also where no part reads it (`maps_read`).
        intrinsics: (B, V, 3, 3) float32, pixels of the H x W image; or None.
        cam_from_world: (B, V, 4, 4) float32, metres, the scene's own world; or None.
        instance_ids: (B, V, H, W) int16 or int64: 0 no instance, -1 ignore, else an id of `instances`; or None as `depth_m`.
        instances: B tables of the instances that may appear in `instance_ids`; or None.
        ground_truth: B records for scoring on the mesh; only in test batches.
        valid: (B, V, H, W) bool, False where a view was padded to the size of the others; None = no view was.
        classes: (B, K) bool, which of the classes the labels of a scene could be, where data sets of several label spaces
            are trained on together (`MixedDataset`); None = any.
    """

    images: Tensor
    scene_names: list[str]
    view_names: list[list[str]]
    depth_m: Tensor | None = None
    intrinsics: Tensor | None = None
    cam_from_world: Tensor | None = None
    instance_ids: Tensor | None = None
    instances: list[InstanceTable] | None = None
    ground_truth: list[SceneGroundTruth] | None = None
    valid: Tensor | None = None
    classes: Tensor | None = None

    def unpacked(self) -> SceneBatch:
        """Return the batch with images float32 in [0, 1] and ids int64, on its device; what is so already is not copied."""
        ids = None if self.instance_ids is None else self.instance_ids.long()
        return replace(self, images=unit_images(self.images), instance_ids=ids)

    def input_size(self, index: int) -> tuple[int, int]:
        """Return (H, W) of the network input of scene `index`, here of all scenes."""
        return tuple(self.images.shape[-2:])


def unit_images(images: Tensor) -> Tensor:
    """Return images (..., 3, H, W) uint8 0 .. 255 as float32 in [0, 1]; floating ones are returned as they are.

    Raises:
        ValueError: another dtype.
    """
    if images.is_floating_point():
        return images
    if images.dtype != torch.uint8:
        raise ValueError(f'images must be uint8 in 0 .. 255 or floating in [0, 1], got {images.dtype}')
    # CUDA multiplies by the rounded inverse of a Python number; a divisor on the device is divided by, as on a CPU.
    return images.float() / torch.full((), 255.0, device=images.device)


def maps_read(parts: Iterable[object]) -> frozenset[str]:
    """Return which of `MAPS` some of `parts` read: what their `reads_maps` name, all of them for a part without it.

    Raises:
        PluginError: a part names something else.
    """
    found: set[str] = set()
    for part in parts:
        named = getattr(part, 'reads_maps', MAPS)
        if isinstance(named, str) or not set(named) <= set(MAPS):
            raise PluginError(f'{type(part).__name__}.reads_maps must be a tuple of names out of {", ".join(MAPS)}, got '
                              f'{named!r}.')
        found |= set(named)
    return frozenset(found)


@dataclass
class Priors(Moves):
    """What is known of the geometry before a reconstruction; each part is None or given for all views.

    Attributes:
        depth: (B, V, H, W) z-depth, 0 = unknown.
        intrinsics: (B, V, 3, 3), pixels of the H x W image, pixel centres at integers.
        cam_from_world: (B, V, 4, 4), any world, translations in the unit of the depth.
        depth_views, intrinsics_views, camera_views: (B, V) bool, the views whose part is used; None = all.
    """

    depth: Tensor | None = None
    intrinsics: Tensor | None = None
    cam_from_world: Tensor | None = None
    depth_views: Tensor | None = None
    intrinsics_views: Tensor | None = None
    camera_views: Tensor | None = None


@dataclass
class KnownGeometry(Moves):
    """Cameras or depth of the V views of a scene that are known, not predicted, for images of the size of the network input.

    Attributes:
        depth: (V, H, W) float32 z-depth, 0 = no reading; None = not known.
        intrinsics: (V, 3, 3) float64, pixels of the H x W image; None with the cameras.
        cam_from_world: (V, 4, 4) float64, any world, in the unit of the depth; None = not known.
        scale: unit of depth and translations: 'metric' (metres), 'metric, approximate', or 'arbitrary'.
    """

    depth: Tensor | None = None
    intrinsics: Tensor | None = None
    cam_from_world: Tensor | None = None
    scale: str = 'metric'

    @property
    def given(self) -> tuple[str, ...]:
        """Which of 'cameras' and 'depth' are known."""
        return tuple(name for name, value in (('cameras', self.cam_from_world), ('depth', self.depth)) if value is not None)

    def priors(self) -> Priors:
        """Return the same for a backbone, as a batch of one scene; views without any reading count as without depth."""
        depth, intrinsics, cameras = (None if value is None else value[None].float()
                                      for value in (self.depth, self.intrinsics, self.cam_from_world))
        return Priors(depth, intrinsics, cameras, None if depth is None else (depth > 0).flatten(2).any(dim=2))


@dataclass
class LayerState:
    """The image tokens of one query layer, as they pass.

    Attributes:
        index: number of the layer, 0 .. num_query_layers - 1.
        tokens: (B, T, C) tokens of all views of a scene.
        view_index: (T,) int64, the view of each token, -1 = of no view.
        is_patch: (T,) bool, False for camera and register tokens.
        num_views: V.
        tokens_per_view: P, where tokens are P of view 0, P of view 1, ..., then those of no view; None = not known to be.
    """

    index: int
    tokens: Tensor
    view_index: Tensor
    is_patch: Tensor
    num_views: int
    tokens_per_view: int | None = None

    @classmethod
    def of_views(cls, index: int, tokens: Tensor, is_patch: Tensor | None = None) -> LayerState:
        """Return the state of views that have P tokens each.

        Args:
            index: number of the layer.
            tokens: (B, V, P, C).
            is_patch: (P,) bool, the same for all views; None = every token is a patch.
        """
        views, per_view = tokens.shape[1:3]
        is_patch = torch.ones(per_view, dtype=torch.bool, device=tokens.device) if is_patch is None else is_patch
        view_index = torch.arange(views, device=tokens.device).repeat_interleave(per_view)      # (T,)
        return cls(index, tokens.flatten(1, 2), view_index, is_patch.repeat(views), views, per_view)

    def select(self, views: Tensor) -> LayerState:
        """Return the tokens (B, T, C) of some `views` (n,) int64, which are then counted from 0, and those of no view."""
        number = torch.full((self.num_views + 1,), -2, device=self.view_index.device)           # the last is of no view
        number[views], number[-1] = torch.arange(len(views), device=number.device), -1
        kept = number[self.view_index] >= -1                                                    # (T,)
        return LayerState(self.index, self.tokens[:, kept], number[self.view_index][kept], self.is_patch[kept], len(views))


IMAGES = 'images'                              # the map of `FeatureTaps.maps` that no head leaves


@dataclass
class FeatureTaps:
    """What a backbone leaves for the heads after its last layer; views in the order of the images.

    Attributes:
        taps: one (B, V, P, feature_dim) map per entry of the backbone's `feature_layers`, in that order.
        patch_index: (h_p * w_p,) int64, where along P the patch tokens stand, row-major over the patch grid.
        patch_grid: (h_p, w_p), patches along the height and the width of the image.
        image_size: (H, W) in pixels.
        geometry_tokens: (B, V, feature_dim), the token of each view that cameras are read from; None without one.
        special_tokens: (B, V, K, C or 2C), the tokens of the last layer that are no patches, where a backbone leaves others
            than those of the last tap; `special` gives either.
        scene_tokens: (B, E, C), tokens of no view after the last layer; None without any.
        tap_grids: grid (h, w) of each tap, None = `patch_grid`; a tap with a grid of its own holds its patches only,
            (B, V, h * w, feature_dim), row-major. None = all are of `patch_grid`.
        wanted: names of maps that some part `reads`; the model fills it in.
        maps: those that are there by now, (B, V, ...) each: 'images' (B, V, 3, H, W) in [0, 1], and
            what the backbone and heads `leave`.
    """

    taps: list[Tensor]
    patch_index: Tensor
    patch_grid: tuple[int, int]
    image_size: tuple[int, int]
    geometry_tokens: Tensor | None = None
    special_tokens: Tensor | None = None
    scene_tokens: Tensor | None = None
    tap_grids: Sequence[tuple[int, int] | None] | None = None
    wanted: frozenset[str] = frozenset()
    maps: dict[str, Tensor] = field(default_factory=dict)

    def select(self, views: Tensor) -> FeatureTaps:
        """Return the taps (B, n, P, C), and all else, of some `views` (n,) int64 in that order; tokens of no view stay."""
        def some(values: Tensor | None) -> Tensor | None:
            return None if values is None else values[:, views]
        return replace(self, taps=[some(tap) for tap in self.taps], geometry_tokens=some(self.geometry_tokens),
                       special_tokens=some(self.special_tokens), maps={name: some(map_) for name, map_ in self.maps.items()})

    def leave(self, name: str, values: Tensor) -> None:
        """Keep a map (B, V, ...) for the parts that are called later, if one of them reads `name`."""
        if name in self.wanted:
            self.maps[name] = values

    @property
    def special(self) -> Tensor:
        """(B, V, K, C or 2C), the tokens of the last layer that are no patches, in their order."""
        if self.special_tokens is not None:
            return self.special_tokens
        special = torch.ones(self.taps[-1].shape[2], dtype=torch.bool, device=self.patch_index.device)
        special[self.patch_index] = False
        return self.taps[-1][:, :, special]

    def grid_of(self, tap: int) -> tuple[tuple[int, int], Tensor | None]:
        """Return the grid of tap number `tap`, and where its patches stand along P; None = it holds nothing else."""
        grid = None if self.tap_grids is None else self.tap_grids[tap]
        return (self.patch_grid, self.patch_index) if grid is None else (grid, None)


@dataclass
class QueryPredictions(Moves):
    """What the queries say. As listed for B scenes; `scene(b)` gives one scene, without the B axis.

    Scenes of different sizes, such as point clouds, have a list of B tensors in the place of each tensor.

    Attributes:
        embedding: (B, Q, D) projected queries, which masks are made from, and classes where `class_embedding` is None.
        class_logits: (B, Q, K + 1), the last column is "no object"; (B, Q, K) where `classes` is 'sigmoid'.
        mask_logits: (B, Q, V, h, w) where `SegVGGT.predict_all` was asked for them, else None; what reads masks calls
            `masks` instead, which gives them in either case.
        view_attention: (L, B, Q, V) attention mass per view, rows over V sum to 1; None at inference.
        auxiliary: predictions of earlier layers (deep supervision), first layer first; empty for SegVGGT.
        features: (B, V, D, h, w) instance features that the masks of `embedding` come from, where `mask_logits` is None.
        elements: (B, Q) int64, the mask element (index into V*h*w) that each query stands for; None for learned queries.
        scores: (B, Q), what a head says the overlap of each mask with its instance is, of any sign; None without one.
        centres: (B, Q, 3) metres, where each query sees its instance; None without such a head.
        element_points: (B, V*h*w) int64, how many points each mask element stands for; None = elements are pixels.
        class_embedding: (B, Q, E), what the class head reads in the place of `embedding`.
        classes: what the logits mean, as the class head says: 'softmax' over K classes and "no object", or 'sigmoid', K
            probabilities that know nothing of each other. Costs, rankings and losses ask `class_probabilities`.
    """

    embedding: Tensor | list[Tensor]
    class_logits: Tensor | list[Tensor] | None = None
    mask_logits: Tensor | list[Tensor] | None = None
    view_attention: Tensor | None = None
    auxiliary: list[QueryPredictions] = field(default_factory=list)
    features: Tensor | list[Tensor] | None = None
    elements: Tensor | list[Tensor] | None = None
    scores: Tensor | list[Tensor] | None = None
    centres: Tensor | list[Tensor] | None = None
    element_points: Tensor | list[Tensor] | None = None
    class_embedding: Tensor | list[Tensor] | None = None
    classes: str = 'softmax'

    @property
    def levels(self) -> list[QueryPredictions]:
        """Every supervised prediction: those of earlier layers, first to last, then this one."""
        return [*self.auxiliary, self]

    def class_probabilities(self) -> tuple[Tensor, Tensor]:
        """Return the probability of each class (..., Q, K), and that there is an object of any (..., Q), in float32.

        The latter is 1 - p("no object"), or with 'sigmoid' that of the best class.
        """
        logits = self.class_logits.float()
        if self.classes == 'sigmoid':
            each = logits.sigmoid()
            return each, each.amax(dim=-1)
        every = logits.softmax(dim=-1)                                          # (..., Q, K + 1)
        return every[..., :-1], 1 - every[..., -1]

    def say_only(self, classes: Tensor) -> None:
        """Let the queries of each scene say only some `classes` (B, K) bool, at every level: others get probability 0."""
        for level in self.levels:
            logits = level.class_logits
            possible = F.pad(classes, (0, logits[0].shape[-1] - classes.shape[1]), value=True)  # (B, K + 1), or (B, K)
            said = [one.masked_fill(~own, IMPOSSIBLE) for one, own in zip(logits, possible, strict=True)]
            level.class_logits = torch.stack(said) if isinstance(logits, Tensor) else said

    def masks(self, queries: Tensor | None = None) -> MaskLogits:
        """Return the mask logits (n, V*h*w) of some queries (n,) int64 of one scene, None = all Q, to be read in pieces.

        Raises:
            ValueError: neither mask logits nor instance features are there.
        """
        rows = slice(None) if queries is None else queries
        if self.mask_logits is not None:
            return MaskLogits.given(self.mask_logits[rows].flatten(1))
        if self.features is None:
            raise ValueError('masks need mask_logits (Q, V, h, w) in the predictions, or features (V, D, h, w) beside the '
                             'embedding; both are None')
        return MaskLogits(self.embedding[rows], self.features)

    def scene(self, index: int) -> QueryPredictions:
        """Return the predictions of scene `index`: embedding (Q, D), class_logits (Q, K + 1), mask_logits (Q, V, h, w),
        view_attention (L, Q, V)."""
        picked = {f.name: value[index] for f in fields(self) if f.name not in ('view_attention', 'auxiliary', 'classes')
                  and (value := getattr(self, f.name)) is not None}
        attention = None if self.view_attention is None else self.view_attention[:, index]
        return replace(self, **(picked | dict(view_attention=attention,
                                              auxiliary=[level.scene(index) for level in self.auxiliary])))


@dataclass
class Predictions(Moves):
    """Everything one forward pass returns; the world is the first camera's frame.

    Confidences are on one scale, whatever a network calls its own: 1 + exp(logit) >= 1, so that 1 - 1 / confidence is the
    probability (sigmoid) of the logit.

    Attributes:
        pose_encodings: list of refinement stages, each (B, V, 9): translation, quaternion xyzw, vertical and
            horizontal field of view in radians, of `cam_from_world` (spec vggt.md section 7); the last one counts.
        depth: (B, V, H, W) z-depth > 0; None without a depth head.
        depth_conf: (B, V, H, W) confidence >= 1; None without a depth head.
        features: (B, V, D, h, w) instance features; None without that head.
        queries: what the queries say; None for a geometry-only model.
        points: (B, V, H, W, 3) in the frame of the first camera; None without a point head.
        points_conf: (B, V, H, W) confidence >= 1; None without a point head.
        intrinsics: (B, V, 3, 3) in pixels of the H x W image, focal lengths apart and principal point anywhere; None = as
            the fields of view of the last encoding say, principal point in the middle of the image. Readers ask
            `jrs.geometry.camera.predicted_cameras`.
        scale: unit of depth, points and translations: 'metric' (metres), 'metric, approximate', or 'arbitrary'.
        extras: what only some models predict, by name, (B, ...) each: unit `rays`, validity logits, and `metric_scale` (B,),
            the metres per unit by which a model multiplied what it read from the views (`in_units`).
    """

    pose_encodings: list[Tensor]
    depth: Tensor | None = None
    depth_conf: Tensor | None = None
    features: Tensor | None = None
    queries: QueryPredictions | None = None
    points: Tensor | None = None
    points_conf: Tensor | None = None
    intrinsics: Tensor | None = None
    scale: str = 'arbitrary'
    extras: dict[str, Tensor] = field(default_factory=dict)

    def scaled(self, factor: Tensor) -> Predictions:
        """Return the same with depth, points and translations of each scene times `factor` (B,) > 0."""
        maps, vectors = factor[:, None, None, None], factor[:, None, None]
        encodings = [torch.cat([vectors * encoding[..., :3], encoding[..., 3:]], dim=-1) for encoding in self.pose_encodings]
        return replace(self, pose_encodings=encodings, depth=None if self.depth is None else maps * self.depth,
                       points=None if self.points is None else maps[..., None] * self.points)

    def in_units(self) -> Predictions:
        """Return the same without `metric_scale`, in units of the scene: what scene-normalised targets supervise."""
        scale = self.extras.get('metric_scale')
        return self if scale is None else self.scaled(1 / scale)


@dataclass
class SceneContext(Moves):
    """What was predicted for one scene, as postprocessors see it; None = the model has no such head.

    Attributes:
        queries: what the queries say, of one scene.
        features: (V, D, h, w) instance features.
        image_size: (H, W) of the network input.
        depth, depth_conf: (V, H, W), as of `Predictions`.
        points, points_conf: (V, H, W, 3), (V, H, W), likewise.
        intrinsics: (V, 3, 3), pixels of the network input.
        cam_from_world: (V, 4, 4), in the unit of the depth.
        valid: (V, H, W) bool, False where a view was padded; None = nowhere.
        scene_name: for messages.
    """

    queries: QueryPredictions | None = None
    features: Tensor | None = None
    image_size: tuple[int, int] | None = None
    depth: Tensor | None = None
    depth_conf: Tensor | None = None
    points: Tensor | None = None
    points_conf: Tensor | None = None
    intrinsics: Tensor | None = None
    cam_from_world: Tensor | None = None
    valid: Tensor | None = None
    scene_name: str = ''


@dataclass
class InstanceTargets(Moves):
    """The true instances of one scene in the sampled views.

    Attributes:
        labels: (G,) int64 class indices, or `UNNAMED`.
        masks: (G, V, h, w) bool at the resolution of the mask logits.
        view_visibility: (G, V) float32, share of an instance's pixels in each view; rows sum to 1.
        valid: (V, h, w) bool, False where neither instance nor background is known; None = all valid.
        ids: (G,) int64 as in the id images; None where nobody needs them.
        centres: (G, 3) metres, the mean of each instance's points; None where nobody needs them.
    """

    labels: Tensor
    masks: Tensor
    view_visibility: Tensor
    valid: Tensor | None = None
    ids: Tensor | None = None
    centres: Tensor | None = None

    @property
    def num_views(self) -> int:
        """V."""
        return self.view_visibility.shape[1]

    def unknown(self, ignored_label: int | None = None) -> Tensor:
        """Return whose class nobody knows (G,) bool: label `UNNAMED`, or `ignored_label` where a data set has one."""
        unnamed = self.labels == UNNAMED
        return unnamed if ignored_label is None else unnamed | (self.labels == ignored_label)

    def select(self, index: Tensor) -> InstanceTargets:
        """Return some of the G instances, in the order of `index` (n,) int64: `masks` become (n, V, h, w)."""
        of_each = {name: value[index] for name in ('labels', 'masks', 'view_visibility', 'ids', 'centres')
                   if (value := getattr(self, name)) is not None}
        return replace(self, **of_each)

    @property
    def flat_masks(self) -> Tensor:
        """`masks` of all views laid end to end, (G, V*h*w), as `QueryPredictions.masks` has them."""
        return self.masks.flatten(1)

    @property
    def flat_valid(self) -> Tensor | None:
        """`valid` of all views laid end to end, (V*h*w,)."""
        return None if self.valid is None else self.valid.flatten()


@dataclass
class GeometryTargets(Moves):
    """Geometry that supervises a batch, from a teacher or the data set, scene-normalised (vggt.md section 15).

    Attributes:
        pose_encoding: (B, V, 9), in the frame of the first camera.
        depth: (B, V, H, W) z-depth in units of the scene's mean point distance, or in the teacher's own where it does not
            rescale; 0 where not valid.
        valid: (B, V, H, W) bool.
        points: (B, V, H, W, 3) in the frame of the first camera, same unit; only point maps read it.
        unit_m: (B,) that unit in metres, NaN for a scene of which nobody knows; None where the teacher never does.
        weight: (B, V, H, W) how much the error of a pixel's depth or point counts, of mean 1 over the valid pixels of a
            scene; None = all alike.
    """

    pose_encoding: Tensor
    depth: Tensor
    valid: Tensor
    points: Tensor | None = None
    unit_m: Tensor | None = None
    weight: Tensor | None = None


@dataclass
class Match:
    """An assignment in one scene: `queries[i]` is matched to `instances[i]`, both (n,) int64.

    `auxiliary` has one assignment per level of `QueryPredictions.auxiliary`, in that order. `weights` (n,) >= 0 say how much
    each pair counts in the losses, None = 1 each: terms are weighted means, so that weight 2 is as good as the pair twice
    and weight 0 as good as no pair (its query then says nothing to the class loss either).

    Raises:
        ValueError: another number of weights than of pairs.
    """

    queries: Tensor
    instances: Tensor
    auxiliary: list[Match] = field(default_factory=list)
    weights: Tensor | None = None

    def __post_init__(self) -> None:
        if self.weights is not None and self.weights.shape != self.queries.shape:
            raise ValueError(f'Match.weights must have one weight for each of the {len(self.queries)} pairs, shape '
                             f'{tuple(self.queries.shape)}, got {tuple(self.weights.shape)}')

    def mean(self, values: Tensor) -> Tensor | None:
        """Return the mean of `values` (..., n), by weight over pairs and plain over the rest; None where no pair counts."""
        if self.weights is None:
            return values.mean() if values.shape[-1] else None
        total = self.weights.sum()
        return (values * self.weights).sum(dim=-1).mean() / total if total > 0 else None

    def sum(self, values: Tensor) -> Tensor | None:
        """Return the sum of `values` (..., n) over pairs, by weight, and its mean over the rest; None where none counts."""
        if self.weights is None:
            return values.sum(dim=-1).mean() if values.shape[-1] else None
        return (values * self.weights).sum(dim=-1).mean() if self.weights.sum() > 0 else None


@dataclass
class MatchedAttention(Moves):
    """Where the queries of a scene's true instances look: those that the training matcher assigns to them.

    Attributes:
        layers: the L layers at which queries read tokens, as the backbone counts them.
        queries: (n,) int64, one query per matched instance.
        target: the n matched instances, in that order.
        view_attention: (L, n, V) attention mass per view, rows over V sum to 1.
    """

    layers: tuple[int, ...]
    queries: Tensor
    target: InstanceTargets
    view_attention: Tensor


@dataclass
class PackedMasks(Moves):
    """Masks of M instances at one bit per pixel; instances of one query share theirs.

    Attributes:
        bits: (n, V, ceil(h * w / 8)) uint8, the distinct masks: bit j of byte i is pixel 8 i + j of a view, row by row.
        rows: (M,) int64, which of the n masks each instance has.
        size: (h, w).
    """

    bits: Tensor
    rows: Tensor
    size: tuple[int, int]

    @classmethod
    def pack(cls, masks: Tensor) -> PackedMasks:
        """Return masks (M, V, h, w) bool, packed."""
        return cls(pack_bits(masks.flatten(2)), torch.arange(len(masks), device=masks.device), tuple(masks.shape[2:]))

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """(M, V, h, w)."""
        return (len(self.rows), self.bits.shape[1], *self.size)

    @property
    def device(self) -> torch.device:
        """Where the bits are."""
        return self.bits.device

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: list[int] | slice | Tensor) -> PackedMasks:
        """Return the masks of some instances; no pixel is copied."""
        return PackedMasks(self.bits, self.rows[index], self.size)

    def __iter__(self) -> Iterator[Tensor]:
        """Unpack one mask (V, h, w) bool at a time."""
        for row in self.rows.tolist():
            yield unpack_bits(self.bits[row], self.size[0] * self.size[1]).unflatten(1, self.size)      # (V, h, w)

    def dense(self) -> Tensor:
        """Return (M, V, h, w) bool: eight times the memory, and once per instance."""
        masks = torch.empty(self.shape, dtype=torch.bool, device=self.bits.device)
        for index, mask in enumerate(self):
            masks[index] = mask
        return masks

    def pixels(self) -> Tensor:
        """Return the number of pixels of each instance in each view, (M, V) int64."""
        counts = [count_bits(mask) for mask in self.bits]                                   # (V,) each
        return (torch.stack(counts) if counts else self.rows.new_zeros(0, self.bits.shape[1]))[self.rows]


def pack_bits(flags: Tensor) -> Tensor:
    """Return `flags` (..., E) bool at eight to a byte, the first in the lowest bit: (..., ceil(E / 8)) uint8."""
    words = torch.nn.functional.pad(flags, (0, -flags.shape[-1] % 8)).contiguous().view(torch.int64)
    return ((words * 0x0102040810204080) >> 56).to(torch.uint8)        # gathers bit 0 of eight bytes in the highest byte


def pack_above(values: Tensor, threshold: float) -> Tensor:
    """Return ``pack_bits(values > threshold)``, (..., ceil(E / 8)) uint8, of `values` (..., E) float32.

    On a CPU it is numpy's, which is ten times as fast.
    """
    if values.device.type != 'cpu':
        return pack_bits(values > threshold)
    return torch.from_numpy(np.packbits(values.numpy() > np.float32(threshold), axis=-1, bitorder='little'))


def unpack_bits(bits: Tensor, count: int) -> Tensor:
    """Return the first `count` flags (..., count) bool of what `pack_bits` made, (..., ceil(E / 8)) uint8."""
    weights = 2 ** torch.arange(8, dtype=torch.uint8, device=bits.device)
    return (bits[..., None] & weights).bool().flatten(-2)[..., :count]


def count_bits(bits: Tensor) -> Tensor:
    """Return how many bits of `bits`, (M, V, n) or any (..., n) uint8, are set along the last axis: (...) int64."""
    if bits.device.type == 'cpu':
        return torch.from_numpy(np.asarray(np.bitwise_count(bits.numpy()).sum(axis=-1, dtype=np.int64)))
    pairs = bits - ((bits >> 1) & 0x55)
    fours = (pairs & 0x33) + ((pairs >> 2) & 0x33)
    return ((fours + (fours >> 4)) & 0x0F).sum(dim=-1)


@dataclass
class Instances(Moves):
    """Scored instances of one scene, best first.

    Attributes:
        packed: their masks, (M, V, h, w); a bool tensor is packed. `masks` unpacks all of them.
        labels: (M,) int64 class indices; 0 for class-agnostic ranking.
        scores: (M,) float32 in [0, 1].
        queries: (M,) int64, the query each came from.
        embedding: (M, D), whose inner products with the instance features are the mask logits; None where masks have no
            logits, or these were given as they are.
        ranking: what the scores are, in words; '' = class probability times mask quality.
        rankings: other scores (M,) by name, which AP is given for too; empty where there is one way only.
    """

    packed: PackedMasks
    labels: Tensor
    scores: Tensor
    queries: Tensor
    embedding: Tensor | None = None
    ranking: str = ''
    rankings: dict[str, Tensor] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if isinstance(self.packed, Tensor):
            self.packed = PackedMasks.pack(self.packed.bool())

    def __len__(self) -> int:
        return len(self.scores)

    @property
    def masks(self) -> Tensor:
        """(M, V, h, w) bool, unpacked at each access; assigning packs. Readers of large scenes walk over `packed`."""
        return self.packed.dense()

    @masks.setter
    def masks(self, masks: Tensor) -> None:
        """Pack masks (M, V, h, w) bool."""
        self.packed = PackedMasks.pack(masks)

    def select(self, index: list[int] | Tensor) -> Instances:
        """Return some of the M instances, in the order of `index`: numbers in 0 .. M - 1, or (n,) int64, or (M,) bool."""
        if not isinstance(index, Tensor):
            index = torch.tensor(index, dtype=torch.int64, device=self.scores.device)
        embedding = None if self.embedding is None else self.embedding[index]
        return Instances(self.packed[index], self.labels[index], self.scores[index], self.queries[index], embedding,
                         self.ranking, {name: scores[index] for name, scores in self.rankings.items()})


@dataclass
class Reconstruction(Moves):
    """A scene as users take it away: cameras, depth, points and instances of V views; None = no head gives it.

    Attributes:
        images: (V, 3, H, W) float32 in [0, 1], the network input; None for a model that sees points.
        depth: (V, H, W) z-depth in the unit that `scale` says; None without a depth head.
        depth_conf: (V, H, W) >= 1; None where depth comes without confidence.
        intrinsics: (V, 3, 3), pixels of the network input; None without a camera head.
        cam_from_world: (V, 4, 4); the world is the first camera's frame, but see `given`; None without a camera head.
        features: (V, D, h, w) instance features, for pictures; or None.
        instances: scored instances; None without a postprocessor.
        view_names: V names.
        view_attention: (L, Q, V) attention mass per view, rows over V sum to 1; None unless asked for.
        matched: where the queries of the true instances look; None unless asked for (`SegVGGT.reports_matches`).
        scale: unit of depth and translations: 'metric' (metres), 'metric, approximate', or 'arbitrary'.
        extras: what only some models predict, by name, as of `Predictions` without the axis B.
        given: which of 'cameras' and 'depth' were known, not predicted; given cameras have a world of their own.
    """

    images: Tensor | None = None
    depth: Tensor | None = None
    depth_conf: Tensor | None = None
    intrinsics: Tensor | None = None
    cam_from_world: Tensor | None = None
    features: Tensor | None = None
    instances: Instances | None = None
    view_names: list[str] = field(default_factory=list)
    view_attention: Tensor | None = None
    matched: MatchedAttention | None = None
    scale: str = 'arbitrary'
    extras: dict[str, Tensor] = field(default_factory=dict)
    given: tuple[str, ...] = ()

    @property
    def missing_geometry(self) -> list[str]:
        """The heads whose absence leaves no points: of 'camera head' and 'depth head'; empty where there are points."""
        return [head for head, value in (('camera head', self.cam_from_world), ('depth head', self.depth)) if value is None]
