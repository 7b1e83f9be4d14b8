"""Parts that learn and find instances: where queries read, alignment, matching, losses, and what becomes of predictions."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Literal, Protocol

from jrs.contracts.contract import contract

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

    from jrs.structures import (
        GeometryTargets,
        Instances,
        InstanceTargets,
        Match,
        Predictions,
        QueryPredictions,
        Reconstruction,
        SceneContext,
        SceneGroundTruth,
    )

ALIGNMENT = {'alignment': 'the part of `model.alignment`, shared by cost and loss; None where that is None'}


@contract('INSERTIONS')
class Insertion(Protocol):
    """At which layers of the backbone queries read image tokens (Table 4).

    `model.queries.insertion` and `model.queries.self_insertion` of `InsertedQueries`, called once while that is built.
    """

    def __call__(self, num_layers: int) -> tuple[int, ...]:
        """Return layer numbers of 0 .. num_layers - 1 in ascending order, at least one; a ConfigError where that fails."""


@contract('ALIGNMENTS')
class Alignment(Protocol):
    """How far a query's attention over views is from where an instance is visible: the divergence of FADA (Eq. 8).

    `model.alignment`; None switches the collection of view attention off. Called by `ViewAttentionCost` (no gradient, all
    pairs) and `ViewAttentionLoss` (with gradient, matched pairs). No state, no parameters.
    """

    def __call__(self, attention: Tensor, target: Tensor) -> Tensor:
        """Return the divergence (...) >= 0 of `attention` (..., V) from `target` (..., V), which broadcast to each other.

        Rows over V are probabilities that sum to 1 and may be exactly 0: the value and its gradient must stay finite there.
        The cost passes (L, Q, 1, V) and (G, V) and expects (L, Q, G); the loss (L, n, V) and (n, V) and expects (L, n).
        """


@contract('COSTS', offers={
    'weight': '`model.weights[<name>]`, which the loss of that name shares; `weight` beside the cost\'s `type` is its own',
    **ALIGNMENT})
class Cost(Protocol):
    """What it would cost to match each query with each true instance.

    `model.matcher.costs.<name>`; None turns one off. The matcher calls it once per scene and supervised level, without
    gradient, and adds all costs.

    Attributes:
        classes: what class logits must mean where it reads them, as class heads say it: 'softmax' or 'sigmoid'.
    """

    classes: str = 'softmax'

    def __call__(self, pred: QueryPredictions, target: InstanceTargets) -> Tensor:
        """Return (Q, G), finite, already multiplied by the weight. One scene: no axis B. G may be 0, V may be 1.

        A cost whose constructor takes no `weight` is refused: `model.weights` would not reach it.

        `pred` has ``class_probabilities()``, `view_attention` (L, Q, V) or None, and ``pred.masks()``, a `MaskLogits`
        that is read in pieces or by `pairwise_bce` and `pairwise_dice` of `jrs.functional`.
        """


@contract('MATCHERS', '*.matcher', offers={
    'weights': '`model.weights`: name -> number, shared by costs and losses of that name', **ALIGNMENT})
class Matcher(Protocol):
    """Which query answers for which true instance.

    `model.matcher`. Called once per scene and step in training, and by metrics that ask for matched queries. Derive from
    `jrs.matching.hungarian.CostMatcher` and define `assign` where costs are summed: building the costs, weights, checks of
    shape and of finite numbers, auxiliary levels and G = 0 are done there. Arguments of its own come beside those of the
    base: ``def __init__(self, k=3, **options)`` with ``super().__init__(**options)``.
    """

    def __call__(self, pred: QueryPredictions, target: InstanceTargets) -> Match:
        """Return the pairs of one scene, without gradient, on the device of `pred`; none where G is 0.

        A query has one instance at most; an instance may have several queries, or none. ``Match.auxiliary`` has one more
        assignment per level of ``pred.auxiliary``. ``Match.weights`` (n,) may say how much each pair counts in the losses.

        `assign(cost, pred, target)` gets the sum of the costs (Q, G), float64 on the CPU, G > 0, of one level, and returns
        queries (n,), instances (n,) and, as it likes, weights (n,), all as tensors or arrays. A query that is named twice,
        or is not there (-1 too), is refused.
        """


@contract('LOSSES.instances', offers=ALIGNMENT)
class InstanceLoss(Protocol):
    """A named training term of one scene's queries and the true instances that they are matched to.

    `model.losses.<name>`; None turns one off. The criterion calls it once per scene and supervised level, averages over the
    scenes that return a number, and multiplies by ``model.losses.<name>.weight`` or, where that is not set, by
    ``model.weights[<name>]``, which the cost of that name shares; no constructor of a loss takes a `weight`.
    `jrs.losses.over_scenes.InstanceTerm` is a base class with other ways of putting scenes and levels together.

    Attributes:
        reads: 'instances', a class attribute: which arguments the loss is called with.
        classes: as of costs.
        every_level: False where the final prediction is enough and auxiliary levels are not looked at.
        scene_reduction: 'mean_present' over the scenes that return a number, 'mean_all' over all, 'sum', or 'pooled': the
            loss has a method ``pooled(scenes)`` for the triples of all scenes.
        last_scale: multiplier of the final prediction's value.
        aux_scale: multiplier of the values of auxiliary levels.
    """

    reads: Literal['instances']
    classes: str = 'softmax'
    every_level: bool = True
    scene_reduction: str = 'mean_present'
    last_scale: float = 1.0
    aux_scale: float = 1.0

    def __call__(self, pred: QueryPredictions, target: InstanceTargets, match: Match) -> Tensor | None:
        """Return a scalar with gradient, not weighted; None when the scene has nothing to say, as without pairs.

        One scene: no axis B. Pair i is query ``match.queries[i]`` and instance ``match.instances[i]``. Masks as for costs:
        ``pred.masks(match.queries)``, a `MaskLogits` that is read in pieces or by `matched_bce` and `matched_dice` of
        `jrs.functional`; the true ones are ``target.flat_masks[match.instances]``. ``match.mean(values)`` is the mean of
        (n,) values by the weights of the pairs, None where no pair counts; `match.sum` is their sum likewise.
        """


@contract('LOSSES.features', offers=ALIGNMENT)
class FeatureLoss(Protocol):
    """A named training term of one scene's instance features and its true instances, without queries.

    `model.losses.<name>`, called once per scene; averaged and weighted like the others.

    Attributes:
        reads: 'features', a class attribute.
    """

    reads: Literal['features']

    def __call__(self, features: Tensor, target: InstanceTargets) -> Tensor | None:
        """Return a scalar with gradient, or None, for instance features (V, D, h, w) and masks (G, V, h, w)."""


@contract('LOSSES.geometry', offers=ALIGNMENT)
class GeometryLoss(Protocol):
    """A named training term of a batch's cameras, depth or points against the teacher's.

    `model.losses.<name>`, called once per step; weighted like the others. Needs `model.teacher`.

    Attributes:
        reads: 'geometry', a class attribute.
    """

    reads: Literal['geometry']

    def __call__(self, predictions: Predictions, target: GeometryTargets) -> Tensor | Mapping[str, Tensor]:
        """Return a scalar with gradient, or a mapping with `total` and further scalars that are only logged.

        All B scenes at once. Where nothing is valid, return 0 that still depends on the predictions. A ConfigError says what
        the model does not predict.
        """


@contract('LOSSES.criterion', 'model', public=False)
class Criterion(Protocol):
    """Evaluates and weighs all losses. The model builds the one there is; no config names another."""

    reads: Literal['everything']

    def __call__(self, predictions: Predictions, instance_targets: list[InstanceTargets] | None,
                 geometry: GeometryTargets | None, matches: list[Match] | None) -> dict[str, Tensor]:
        """Return ``loss_<name>``, weighted, and what is only logged."""


@contract('POSTPROCESSORS.postprocessor', '*.postprocessor')
class Postprocessor(Protocol):
    """What was predicted for one scene -> scored instances.

    `model.postprocessor`. Called once per scene in testing and inference, never in training; no gradient, on the device of
    the predictions.

    Attributes:
        reads: which parts of a model it cannot do without, out of 'queries', 'features', 'depth', 'points' and 'cameras': a
            config that lacks one is refused.
    """

    reads: tuple[str, ...] = ('queries',)

    def __call__(self, scene: SceneContext) -> Instances:
        """Return M instances, best first; M may be 0.

        `scene.queries` has `class_probabilities()` and `embedding` (Q, D); `mask_logits` is None. `scene.features` are
        (V, D, h, w), and ``jrs.masks.mask_logits(embedding, features)`` are the logits (Q, V, h, w): for many queries and
        views make them a few views at a time. Give masks as (M, V, h, w) bool, or packed at one bit per pixel; they may have
        the size of the network input as well.
        """


@contract('POSTPROCESSORS.suppression', '*.suppression')
class Suppression(Protocol):
    """What becomes of scored masks that lie on each other.

    `model.postprocessor.suppression` of `QueryMasks`; None = nothing does. Called once per scene, without gradient, with the
    pairs that are left after `top_pairs`; the thresholds of the score come afterwards.
    """

    def __call__(self, probabilities: Tensor, rows: Tensor, labels: Tensor, scores: Tensor) -> tuple[Tensor, Tensor]:
        """Return which of the M pairs stay, (m,) int64, and their new scores (m,).

        `probabilities` (n, E) are the mask probabilities of n queries at all mask elements; `rows` (M,) say which of them a
        pair has, `labels` (M,) its class, `scores` (M,) its score.
        """


@contract('POSTPROCESSORS.transfer', '*.transfer')
class Transfer(Protocol):
    """Moves masks from views to the vertices of the benchmark's mesh, where instances are scored.

    `metrics.<name>.transfer` of `InstanceAPMetric`. Per scene `visible_pixels` is called once, then `lift` for the
    predictions and `lift_ids` for the true masks (the oracle). Numpy on the CPU. Derive from
    `jrs.postprocess.lift.MaskTransfer` and define `visible_pixels` and `describe`: how views and superpoints vote stands
    there. `rules` of the metric (`tools/test.py --transfer-rules`) build the part again with other arguments; its class may
    offer some as `alternatives`, and name as `voting` those that `visible_pixels` does not depend on.
    """

    def describe(self) -> Mapping[str, str]:
        """Return the rule in words, for tables of results."""

    def visible_pixels(self, scene: SceneGroundTruth, input_size: tuple[int, int], mask_size: tuple[int, int],
                       reconstruction: Reconstruction) -> object:
        """Find which mask pixel shows which vertex, for the two calls below.

        Args:
            scene: mesh (N vertices), true poses and depth of V views.
            input_size: (H, W) of the network input.
            mask_size: (h, w) of the masks.
            reconstruction: what the model made of these views.
        """

    def lift(self, instances: Instances, scene: SceneGroundTruth, visible: object, features: Tensor | None) -> np.ndarray:
        """Return the vertices of each instance, (M, ceil(N / 8)) uint8 as ``np.packbits(masks, axis=1)`` makes them."""

    def lift_ids(self, instance_ids: Tensor, ids: Tensor, scene: SceneGroundTruth, visible: object) -> np.ndarray:
        """Do the same for id images (V, h, w) and the ids (G,) among them that are instances: (G, ceil(N / 8)) uint8."""
