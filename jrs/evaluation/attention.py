"""Attention evidence (Figures 3 and 4) in numbers: how much of it falls where an instance can be seen.

A scene leaves sums over its matched instances; means are taken over all instances of all scenes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from jrs.errors import NotMeasured
from jrs.evaluation.metrics import SceneMetric
from jrs.functional import js_divergence
from jrs.registry import METRICS
from jrs.structures import MatchedAttention, Reconstruction, SceneBatch


@dataclass
class AttentionSums:
    """Sums over matched instances.

    Attributes:
        layers: the L layers, as the backbone counts them.
        instances: how many were summed.
        per_layer: name -> (L,) float64.
        uniform: name -> the sum that attention spread evenly over all tokens has.
    """

    layers: tuple[int, ...]
    instances: int
    per_layer: dict[str, np.ndarray]
    uniform: dict[str, float]

    def means(self) -> tuple[dict[str, np.ndarray], dict[str, float]]:
        """Return `per_layer` and `uniform` as means over instances; NaN without any."""
        share = 1 / self.instances if self.instances else math.nan
        return ({name: values * share for name, values in self.per_layer.items()},
                {name: value * share for name, value in self.uniform.items()})


def pooled(scenes: Sequence[AttentionSums]) -> AttentionSums:
    """Return the sums over several scenes of one model; at least one scene."""
    return AttentionSums(
        scenes[0].layers, sum(scene.instances for scene in scenes),
        {name: sum(scene.per_layer[name] for scene in scenes) for name in scenes[0].per_layer},
        {name: sum(scene.uniform[name] for scene in scenes) for name in scenes[0].uniform})


def view_sums(matched: MatchedAttention) -> AttentionSums:
    """Return what the attention over views of one scene says.

    `view_mass` is the mass on views that show the instance, `entropy` that of the mass per view over ln V (1 = even), `js`
    the Jensen-Shannon divergence from the share of the instance's pixels in each view (Eq. 8 without its weights; nats).
    """
    attention = matched.view_attention.double().cpu()                                   # (L, n, V)
    visibility = matched.target.view_visibility.double().cpu()                          # (n, V)
    even = torch.full_like(visibility, 1 / visibility.shape[1])

    def sums(shares: Tensor) -> dict[str, Tensor]:
        return {'view_mass': view_mass(shares, visibility).sum(-1), 'entropy': normalised_entropy(shares).sum(-1),
                'js': js_divergence(shares, visibility).sum(-1)}
    return AttentionSums(matched.layers, len(matched.queries),
                         {name: value.numpy() for name, value in sums(attention).items()},
                         {name: value.item() for name, value in sums(even).items()})


def depth_slope(layers: Sequence[int], values: Sequence[float]) -> float:
    """Return how much a straight line through `values` at `layers` changes from the first layer to the last (0.A.3).

    Least squares; NaN for fewer than two layers. That networks of any depth compare, the unit is the whole span.
    """
    if len(layers) < 2:
        return math.nan
    depth = np.asarray(layers, dtype=np.float64)
    depth = (depth - depth.mean()) / np.ptp(depth)
    return float(depth @ np.asarray(values, dtype=np.float64) / (depth @ depth))


def view_mass(attention: Tensor, visibility: Tensor) -> Tensor:
    """Return the mass on views that show the instance: (..., V), (..., V) broadcast -> (...) in [0, 1]."""
    return (attention * (visibility > 0)).sum(dim=-1)


def normalised_entropy(attention: Tensor) -> Tensor:
    """Return the entropy of distributions (..., V) over ln V: 0 = one view, 1 = even; 1 where V is 1."""
    views = attention.shape[-1]
    entropy = torch.special.entr(attention).sum(dim=-1)
    return entropy / math.log(views) if views > 1 else torch.ones_like(entropy)


def patch_coverage(masks: Tensor, grid: tuple[int, int]) -> Tensor:
    """Return the share of each patch's pixels that show the instance: masks (n, V, h, w) -> (n, V, h_p, w_p)."""
    return F.adaptive_avg_pool2d(masks.float(), grid)


def pixel_mass(patch_maps: Tensor, coverage: Tensor) -> Tensor:
    """Return the mass on pixels that show the instance, the mass of a patch being spread evenly over its pixels.

    Args:
        patch_maps: (..., n, V, h_p, w_p) attention of each query; what its rows lack to 1 lies on special tokens.
        coverage: (n, V, h_p, w_p) from `patch_coverage`.

    Returns:
        (..., n) in [0, 1].
    """
    return (patch_maps * coverage).flatten(-3).sum(dim=-1)


@METRICS.register_module()
class AttentionMetric(SceneMetric):
    """Where the queries of the true instances look, per layer: those that the training matcher assigns to them.

    `view_mass`, `entropy` and `js` as in `view_sums`, each for every inserted layer, for the last one, as their mean and as
    the `depth_slope` over layers; `uniform_view_mass` and `uniform_js` are those of even attention.

    Args:
        collect_device: 'cpu' or 'gpu', where processes exchange results.
        prefix: put before the name of every number.
    """

    default_prefix = 'attention'
    reads_matches = True                       # `Reconstruction.matched`: MetricNeeds (jrs/engine/hooks.py) asks for it
    reads_maps = ()                            # the model reads the ids, to match

    def __init__(self, collect_device: str = 'cpu', prefix: str | None = None) -> None:
        super().__init__(collect_device=collect_device, prefix=prefix)

    def describe(self) -> dict[str, str]:
        """Return the rule in words."""
        return {'attention': 'mean over heads, queries matched by the training matcher, every instance counts once'}

    def score_scene(self, batch: SceneBatch, index: int, reconstruction: Reconstruction) -> AttentionSums:
        """Return the sums over the matched instances of one scene.

        Raises:
            NotMeasured: the reconstruction does not carry matched attention.
        """
        if reconstruction.matched is None:
            raise NotMeasured('the model has no queries, or no matcher that says which of them are of true instances')
        return view_sums(reconstruction.matched)

    def summarise(self, scenes: list[AttentionSums]) -> dict[str, float]:
        """Return means over all instances."""
        if not scenes:
            return {'instances': 0.0, 'scenes': 0.0}
        total = pooled(scenes)
        per_layer, uniform = total.means()
        numbers = {'instances': float(total.instances), 'scenes': float(len(scenes)),
                   'uniform_view_mass': uniform['view_mass'], 'uniform_js': uniform['js']}
        for name, values in per_layer.items():
            numbers |= {f'{name}/last': float(values[-1]), f'{name}/mean': float(values.mean())}
            if len(total.layers) > 1:
                numbers[f'{name}/slope'] = depth_slope(total.layers, values)
            numbers |= {f'{name}/layer_{layer:02}': float(value)
                        for layer, value in zip(total.layers, values, strict=True)}
        return numbers
