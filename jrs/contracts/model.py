"""Parts that make the model: backbone, queries, heads, and who supervises its geometry."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Literal, Protocol

from jrs.contracts.contract import contract, optional

if TYPE_CHECKING:
    from torch import Tensor, nn

    from jrs.structures import FeatureTaps, GeometryTargets, LayerState, Predictions, QueryPredictions, SceneBatch

    Layout = object                            # of jrs.layers, which stands above this package

MODULE = 'torch.nn.Module'
OF_THE_BACKBONE = {
    'dim': 'width C of the tokens, `embed_dim` of the backbone',
    'num_layers': 'its `num_query_layers`',
    'layer_kinds': 'kind of each of these layers, `layer_kinds` of the backbone; all "scene" where it has none',
    'dim_in': 'width of its taps, `feature_dim`',
    'tap_dims': 'width of each of its taps, one number per tap',
    'patch_size': 'side of a patch in pixels',
    'num_special': 'its special tokens per view; 0 where it does not say how many',
    'num_classes': 'K, `model.num_classes`'}


@contract('BACKBONES', base=MODULE)
class Backbone(Protocol):
    """Images -> the tokens of each query layer as they pass, then feature taps for the heads.

    `model.backbone`. `jrs.backbones.steps.StepBackbone` is the base class of ours: a subclass lists blocks, and gets layers,
    taps, recomputation, freezing, adapters and merging of tokens. It need not be used.

    The model runs ``layers(images)`` to its end once per forward pass, in training and in inference, lets
    the queries read each state as it passes, and then asks for ``features()`` once. Images are RGB in [0, 1]; what else they
    should be is yours to do. Gradients flow through tokens and taps; parameters that do not learn have `requires_grad`
    False. `model.autocast` wraps `layers`, not the heads. The device is that of the images.

    Tokens may stand in any order and be of any number: only the index vectors of the `LayerState` say which view a token is
    of, and which are patches. Special tokens are optional, and so is a token that cameras are read from
    (`FeatureTaps.geometry_tokens`): without one `CameraHead` cannot be used, so set `model.camera_head=None` or bring a head
    of your own. The dense heads of the project read four taps.

    Attributes:
        embed_dim: C, width of the tokens that queries read.
        feature_dim: width of the taps that heads read.
        patch_size: side of a patch in pixels. Data sets ask for it before any backbone is built: let it be a class
            attribute, or an argument of the constructor with a default.
        num_query_layers: L, how many states `layers` yields, the same for any images.
        feature_layers: one number per tap; how they count is yours to say.
        size_rule: which image sizes are allowed, in words.
        pose_convention: what cameras mean that are read from these tokens, in words: 'cam_from_world, OpenCV axes, world =
            first camera'.
        scale: of the geometry that comes out; 'metric, approximate' where it is in metres without being exact.
        has_reference_view: True where cameras are relative to the first view. False says that permuting the views permutes
            the outputs; predicted cameras are then made relative to the first view by the model.
        weights_licence: of the released weights, in words; 'none' without any.
        num_special: special tokens per view, for estimates of memory.
        activation_checkpointing: what is computed again in the backward pass, for estimates of memory: False, 'attention'
            (all but the outputs of attention) or True.
        layer_kinds: of each query layer, 'scene' where patches of all views were mixed since the one before, else 'special';
            without it all are 'scene'. Queries pass over 'special' layers unless their config includes them.
        tap_dims: width of each tap, where they differ; without it all have `feature_dim`.
        leaves: names of maps, (B, V, ...) each, that are in `maps` of its `FeatureTaps` for parts that read them.
        order_matters: True where the order of the views changes what comes out of them, beyond which of them is first.
        causal: True where a view sees earlier ones only, so that later ones change nothing of it.
        takes_priors: whether `layers` has a second argument, known depth, intrinsics and cameras (`jrs.structures.Priors`).
        full_precision: beginnings of the names of linear and convolution layers that also run outside autocast. With the
            attribute, inference keeps all others in the dtype of autocast; without it all stay float32.
        photo_resize: how inference brings a photo to size, ``(picture (h, w, 3) uint8, width, patch_size)`` -> the resized
            picture, both sides multiples of the patch size, and the (3, 3) map from old to new pixels; None, or without it,
            by the width (`jrs.io.images.resize_lanczos`).
        official_weights: where to get the released file, in words, for the message that it is missing.
    """

    embed_dim: int
    feature_dim: int
    patch_size: int
    num_query_layers: int
    feature_layers: Sequence[int]
    size_rule: str
    pose_convention: str
    scale: Literal['arbitrary', 'metric', 'metric, approximate']
    has_reference_view: bool
    weights_licence: str
    num_special: int = 0
    activation_checkpointing: bool | str = False
    layer_kinds: Sequence[str] = ...
    tap_dims: Sequence[int] = ...
    leaves: tuple[str, ...] = ()
    order_matters: bool = False
    causal: bool = False
    takes_priors: bool = False
    full_precision: tuple[str, ...] = ...
    photo_resize: Callable | None = None
    official_weights: str = ...

    def layers(self, images: Tensor) -> Iterator[LayerState]:
        """Yield one `LayerState` per query layer, in order, for images (B, V, 3, H, W) in [0, 1], RGB, V >= 1.

        H and W are multiples of `patch_size`. Tokens are (B, T, C); each is of one view, or of none (-1). A ValueError says
        which images are not allowed.
        """

    def features(self) -> FeatureTaps:
        """Hand over what heads read of the images last passed to `layers`, and keep no reference.

        Taps are (B, V, P, feature_dim), V in the order of the images, P the same for all views.
        """


@contract('ATTENTIONS', base=MODULE)
class SceneAttention(Protocol):
    """What stands behind the attention of a backbone's blocks that see several views: merging, causal masks, caches.

    `model.backbone.global_attention`, of backbones made of steps; None = softmax attention of all tokens to all.
    `jrs.layers.attention.SceneAttention` is a base class with the defaults.

    Attributes:
        recomputable: False for what is wrong to run twice (a cache): it is for inference and refuses
            `activation_checkpointing`.
        special_steps: True where steps over special tokens only come to the door too.
        causal: True where no view sees a later one.
        seen: views of the stream before those of the coming pass; not 0 only for caches.
    """

    recomputable: bool
    special_steps: bool
    seen: int
    causal: bool = False

    def at(self, block: int, layout: Layout) -> Callable[[Tensor, Tensor, Tensor, Tensor], Tensor] | None:
        """Return the ``mix(q, k, v, x)`` of block number `block` among the steps across views, None = leave it as it is.

        q, k, v (B, heads, N, head width) after q/k norm and rotation, x (B, N, C) the normalised tokens that they come from;
        the result is (B, heads, N, head width), one row per token in their order. N = V * P + E: views one after the other,
        then tokens of no view. `layout` (`jrs.layers.layout.Layout`) says V, the patch grid, which of P are patches.
        """

    @optional
    def streaming(self, window: int | None) -> AbstractContextManager:
        """Return a context inside which passes go on with one stream of views, as if all were one pass.

        `window` bounds how many views are seen, the present one among them, beside the first; None leaves that to the part.
        Only parts in which no view sees a later one can; without the method, or where it raises a ConfigError, a model does
        not stream (`tools/infer.py --stream`).
        """

    @optional
    def held_bytes(self) -> int:
        """Return the bytes that are kept of the views of a stream, for the log."""


@contract('QUERIES', base=MODULE, offers=OF_THE_BACKBONE)
class Queries(Protocol):
    """How object queries start, read the backbone's tokens, and end as embeddings that classes and masks are made from.

    `model.queries`. Per forward pass the model calls `start`, then `read` with each state of the backbone (inside autocast),
    then `finish` (outside of it). Mask logits are inner products of `embedding` with the instance features, classes come
    from `model.class_head`, which reads `class_embedding` where there is one; queries need both heads. What passes from call
    to call is any object; do not keep it in the module, and do not write into the layer's tensors.

    Attributes:
        num_queries: Q.
        full_precision: as of backbones.
        cross_layers: the L layers at which queries read, for pictures of their attention; without it, all layers.
        carry: in a stream of views, True keeps the state and lets it read view after view; False starts anew in each window
            of views, and reads that at once.
        activation_checkpointing: whether blocks are run again in the backward pass; for estimates of memory.
        kept_channels: of a decoder after the backbone: channels per token that its backward pass keeps, for estimates.
        reads: names of maps in `taps.maps` that it looks at: 'images' (B, V, 3, H, W), and what heads leave.
    """

    num_queries: int
    full_precision: tuple[str, ...] = ...
    cross_layers: Sequence[int] = ...
    carry: bool = False
    activation_checkpointing: bool = False
    kept_channels: float = ...
    reads: tuple[str, ...] = ()

    def start(self, num_scenes: int, track_views: bool) -> object:
        """Return the state of the queries of B scenes; `track_views` asks for `view_attention` in the end."""

    def read(self, state: object, layer: LayerState) -> object:
        """Return the state after `layer`, tokens (B, T, C); unchanged where the queries read nothing."""

    def finish(self, state: object, taps: FeatureTaps, features: Tensor) -> QueryPredictions:
        """Return `embedding` (B, Q, D) float32, with gradient, and in training what else costs and losses read.

        `features` are the instance features (B, V, D, h, w), whose D is that of the embedding. `view_attention` is
        (L, B, Q, V), the attention mass per view, rows over V sum to 1; None without `track_views`, or where the queries
        have none: then `model.alignment` must be None. `auxiliary` are predictions of earlier layers that are supervised
        too. `class_logits`, `classes` and `features` of every level are filled in by the model.
        """

    @optional
    def attention_maps(self, state: object, layer: LayerState, queries: Tensor, per_head: bool) -> Tensor:
        """Return where `queries` (n,) will look when they `read` an inserted layer: (B, n, T), rows sum to 1.

        `per_head` gives (B, heads, n, T). Only `tools/attention.py` asks; without the method it refuses.
        """

    @optional
    def map_shapes(self, grid: tuple[int, int]) -> Mapping[str, tuple[int, ...]]:
        """Return for each map that it reads, but 'images', the shape behind (B, V); `tools/plugins.py check` asks.

        `grid` is the patch grid (h_p, w_p).
        """


@contract('HEADS.camera_head', '*.camera_head', base=MODULE, offers=OF_THE_BACKBONE)
class CameraHead(Protocol):
    """Taps -> cameras.

    `model.camera_head`. Called once per forward pass, outside autocast, with gradient in training. What it predicts are
    stages of refinement; every stage is supervised (`CameraLoss`), the last one counts.

    Attributes:
        streams: whether views may come one after the other: no view's camera depends on later ones, and the head's parts of
            slot ATTENTIONS keep what it needs of earlier ones.
    """

    streams: bool = False

    def __call__(self, features: FeatureTaps) -> list[Tensor]:
        """Return at least one encoding (B, V, 9) float32 of `cam_from_world`.

        Translation (3), quaternion xyzw (4, any length), vertical and horizontal field of view (2, radians; a negative one
        counts as very small), OpenCV axes; `jrs.geometry.camera.encode_cameras` makes them of matrices. The world is that
        of `pose_convention`.
        """


@contract('HEADS.depth_head', '*.depth_head', base=MODULE, offers=OF_THE_BACKBONE)
class DepthHead(Protocol):
    """Taps -> depth and its confidence, one of each per pixel of the images.

    `model.depth_head`. Called once per forward pass, outside autocast, with gradient in training.

    Attributes:
        leaves: names of maps that it hands on with ``features.leave(name, values)``, (B, V, ...) each.
    """

    leaves: tuple[str, ...] = ()

    def __call__(self, features: FeatureTaps) -> tuple[Tensor, Tensor]:
        """Return z-depth > 0 and confidence > 1, float32, (B, V, H, W) each; (H, W) is `features.image_size`."""


@contract('HEADS.point_head', '*.point_head', base=MODULE, offers=OF_THE_BACKBONE)
class PointHead(Protocol):
    """Taps -> the 3D point that each pixel of the images sees, and its confidence.

    `model.point_head`, beside `camera_head` and `depth_head`. Called once per forward pass, outside autocast, with gradient
    in training; `PointLoss` supervises it.

    Attributes:
        leaves: names of maps that it hands on with ``features.leave(name, values)``, (B, V, ...) each.
    """

    leaves: tuple[str, ...] = ()

    def __call__(self, features: FeatureTaps) -> tuple[Tensor, Tensor]:
        """Return points (B, V, H, W, 3) in the world of the cameras and confidence > 1 (B, V, H, W), float32.

        (H, W) is `features.image_size`. The model moves the world to the first camera where the backbone has no reference
        view.
        """


@contract('HEADS.geometry_head', '*.geometry_head', base=MODULE, offers=OF_THE_BACKBONE)
class GeometryHead(Protocol):
    """Taps -> cameras, depth and confidence at once, in place of `camera_head`, `depth_head` and `point_head`.

    `model.geometry_head`. Called once per forward pass, outside autocast, with gradient in training.

    Attributes:
        streams: as of camera heads.
        reads: names of maps in `features.maps` that it looks at: 'images', and what the backbone leaves.
        leaves: names of maps that it hands on with ``features.leave(name, values)``, (B, V, ...) each.
    """

    streams: bool = False
    reads: tuple[str, ...] = ()
    leaves: tuple[str, ...] = ()

    def __call__(self, features: FeatureTaps) -> Predictions:
        """Return at least one encoding (B, V, 9), z-depth > 0 and confidence >= 1, (B, V, H, W) each, as the two heads do.

        Where a model has them too: `points` (B, V, H, W, 3) in the world of the encodings, `intrinsics` (B, V, 3, 3) where
        the field of view does not say all, and `extras`. The model fills in `scale`, and moves the world to the first camera
        where the backbone has no reference view.
        """

    @optional
    def map_shapes(self, grid: tuple[int, int]) -> Mapping[str, tuple[int, ...]]:
        """Return for each map that it reads, but 'images', the shape behind (B, V); `tools/plugins.py check` asks.

        `grid` is the patch grid (h_p, w_p).
        """


@contract('HEADS.scale_head', '*.scale_head', base=MODULE, offers=OF_THE_BACKBONE)
class ScaleHead(Protocol):
    """Taps -> metres per unit of a scene, by which what `camera_head` and `depth_head` read is multiplied.

    `model.scale_head`, beside these two. Called once per forward pass, outside autocast, with gradient in training. Geometry
    is supervised in units of the scene, and the scale by a term of its own (`MetricScaleLoss`).
    """

    def __call__(self, features: FeatureTaps) -> Tensor:
        """Return metres per unit > 0 (B,) float32."""


@contract('HEADS.feature_head', '*.feature_head', base=MODULE, offers=OF_THE_BACKBONE)
class FeatureHead(Protocol):
    """Taps -> instance features, one vector per pixel of the masks, that query embeddings are multiplied with.

    `model.feature_head`, needed where there are queries; without queries, losses that read features and a postprocessor that
    does may use it. Called once per forward pass, outside autocast, with gradient in training.

    Attributes:
        down_ratio: masks have (H // down_ratio, W // down_ratio) pixels; for estimates of memory.
        embedding_dim: D, likewise.
        reads: names of maps in `features.maps` that it looks at: 'images', and what the backbone and heads before it leave.
        leaves: names of maps that it hands on with ``features.leave(name, values)``, (B, V, ...) each.
    """

    down_ratio: int = 1
    embedding_dim: int = 0
    reads: tuple[str, ...] = ()
    leaves: tuple[str, ...] = ()

    def __call__(self, features: FeatureTaps) -> Tensor:
        """Return (B, V, D, h, w) float32, any sign; h <= H and w <= W decide how large masks are."""

    @optional
    def map_shapes(self, grid: tuple[int, int]) -> Mapping[str, tuple[int, ...]]:
        """Return for each map that it reads, but 'images', the shape behind (B, V); `tools/plugins.py check` asks.

        `grid` is the patch grid (h_p, w_p).
        """


@contract('HEADS.class_head', '*.class_head', base=MODULE, offers=OF_THE_BACKBONE)
class ClassHead(Protocol):
    """Embeddings of the queries -> class logits.

    `model.class_head`, needed where there are queries. Called outside autocast for every supervised level.

    Attributes:
        classes: 'softmax' over K classes and "no object", or 'sigmoid' for K probabilities that know nothing of each other;
            costs, losses and rankings find it in the predictions.
    """

    classes: Literal['softmax', 'sigmoid'] = 'softmax'

    def __call__(self, embedding: Tensor) -> Tensor:
        """Return logits for `embedding` (B, Q, D), or for the `class_embedding` of the queries where they have one.

        (B, Q, K + 1) with 'softmax', the last column is "no object"; (B, Q, K) with 'sigmoid'.
        """


@contract('PRETEXTS', offers=OF_THE_BACKBONE)
class Pretext(Protocol):
    """Further training terms from what happens inside the backbone, for pre-training geometry.

    `model.pretext`, None for SegVGGT. Only training calls it. It may know a particular backbone: hooks on its blocks are
    what it is for. Needs `model.teacher`. With parameters that learn, derive from `torch.nn.Module`.
    """

    def prepare(self, backbone: nn.Module) -> None:
        """Change the new backbone, once, right after both are built; a ConfigError refuses a backbone that does not fit."""

    def watching(self, backbone: nn.Module) -> AbstractContextManager:
        """Return a context in which the forward pass runs; what ``with`` gives is handed to the call below."""

    def __call__(self, notes: object, geometry: GeometryTargets) -> Mapping[str, Tensor]:
        """Return scalars named ``loss_<name>``, weighted, with gradient, that are added to the objective."""


@contract('TEACHERS')
class Teacher(Protocol):
    """A batch -> the geometry that supervises it (pseudo ground truth), under no gradient.

    `model.teacher`. Only training calls it, once per step, on the device of the images, after the student's forward pass. It
    is left out where a model is tested or used. A teacher that holds a network keeps it out of the student's parameters: do
    not derive from `torch.nn.Module`.

    Attributes:
        reads_maps: the maps of the batch that it reads: others need not be loaded, and may be None. `('depth_m',)` for one
            that reads true depth, `()` for one that looks at images only.
    """

    reads_maps: tuple[str, ...] = ('depth_m', 'instance_ids')

    def __call__(self, batch: SceneBatch) -> GeometryTargets:
        """Return targets in the frame of the first camera, scaled by the mean distance of the scene's valid points.

        `pose_encoding` (B, V, 9), `depth` (B, V, H, W), 0 where not `valid`, `valid` (B, V, H, W) bool, none with gradient.
        `jrs.models.teacher.geometry_targets` makes them of cameras and depth. A DataError says what the batch lacks.
        """
