"""Attention evidence of one checkpoint (Figures 3 and 4): numbers over a test split, maps of chosen instances."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor, nn

from jrs.errors import DataError
from jrs.evaluation.attention import AttentionSums, patch_coverage, pixel_mass, pooled, view_sums
from jrs.finite import refuse_nonfinite
from jrs.models.attention import matched_attention, patch_maps, watch_tokens
from jrs.models.segvggt import BROKEN, check_predictions
from jrs.structures import LayerState, MatchedAttention, SceneBatch

PAPER_LAYERS, PAPER_DEPTH = (14, 22, 23), 24    # the 15th, the 23rd and the last of 24 (Figure 4)


@dataclass
class ShownInstance:
    """Maps of the query of one instance.

    Attributes:
        scene: name.
        instance: id as in the id images.
        label: class index.
        query: the query that belongs to it.
        images: (V, 3, H, W) in [0, 1].
        view_names: V names.
        mask: (V, h, w) bool, the true one.
        visibility: (V,) share of its pixels in each view.
        maps: layer -> (heads, V, h_p, w_p) attention per patch, the mean over heads as one head; what is missing to 1
            lies on special tokens.
        view_attention: layer -> (V,) mean over heads, sums to 1.
    """

    scene: str
    instance: int
    label: int
    query: int
    images: Tensor
    view_names: list[str]
    mask: Tensor
    visibility: Tensor
    maps: dict[int, Tensor] = field(default_factory=dict)
    view_attention: dict[int, Tensor] = field(default_factory=dict)


def paper_layers(inserted: Sequence[int], depth: int) -> tuple[int, ...]:
    """Return the inserted layers that stand nearest to where the paper's 14, 22 and 23 of 24 do in `depth`."""
    found: list[int] = []
    for layer in reversed(PAPER_LAYERS):
        place = round(layer / (PAPER_DEPTH - 1) * (depth - 1))
        left = [other for other in inserted if other not in found]
        found += [min(left, key=lambda other, place=place: (abs(other - place), -other))] if left else []
    return tuple(sorted(found))


def telling_instance(batch: SceneBatch) -> int:
    """Return the first of the `telling_instances` of one scene; DataError where no view shows an instance."""
    found = telling_instances(batch)
    if not found:
        raise DataError(f'{batch.scene_names[0]}: no view shows an instance; choose another --scene.')
    return found[0]


def telling_instances(batch: SceneBatch, label: int | None = None) -> list[int]:
    """Return the id of the instance of a scene whose picture says most: large, and not in too many of the views.

    The largest of those that at most half of the views show; where there is none, of those that not all show; else of all.
    In a list, which is empty where no view shows any.

    Args:
        batch: of one scene.
        label: class index of those that count; None = all.
    """
    table = batch.instances[0]
    ids = table.ids if label is None else table.ids[table.labels == label]
    pixels = (batch.instance_ids[0] == ids[:, None, None, None]).flatten(2).sum(-1)         # (G, V)
    shown = (pixels > 0).float().mean(-1)                                                   # (G,)
    for most in (0.5, 0.999, 1.0):
        size = pixels.sum(-1) * (shown > 0) * (shown <= most)
        if len(size) and size.max() > 0:
            return [int(ids[size.argmax()])]
    return []


def study(model: nn.Module, scenes: Iterable[SceneBatch], show: dict[str, Collection[int]], layers: Collection[int],
          per_head: bool = False, by: str = 'matcher',
          absent: Callable[[str, int], None] | None = None) -> tuple[AttentionSums, list[ShownInstance]]:
    """Return the sums over the matched instances of all scenes, and maps of the chosen ones.

    The sums are those of `view_sums`, with `pixel_mass` and `special_mass` (on tokens that are no patches) beside them.

    Args:
        model: a SegVGGT in evaluation mode, on its device.
        scenes: batches of one scene with true instances; at least one.
        show: scene name -> ids of the instances whose maps are kept.
        layers: inserted layers whose maps are kept.
        per_head: keep the maps of each head.
        by: which query belongs to an instance: 'matcher' or 'score', see `matched_attention`.
        absent: hears scene and id of a chosen instance that has no query; None = that is an error.

    Raises:
        ConfigError: the model has no matcher or cannot show its attention. DataError: a chosen instance has no query.
        NonFiniteError: what it predicts, or an attention map, is not finite.
    """
    sums, shown = [], []
    device = next(model.parameters()).device
    for batch in scenes:
        batch = batch.to(device).unpacked()
        with torch.no_grad():
            predictions = model.forward_images(batch.images, track_views=True)
            check_predictions(predictions, batch)
            found = [scene.instances for scene in model.reconstructed(batch, predictions)] if by == 'score' else None
        matched = matched_attention(model, predictions.queries, batch, found)[0]
        chosen, there = show.get(batch.scene_names[0], ()), matched.target.ids.tolist()
        for number in chosen if absent is not None else ():
            if number not in there:
                absent(batch.scene_names[0], number)
        kept = [_shown(batch, matched, number) for number in chosen if absent is None or number in there]
        sums.append(_scene_sums(model, batch, matched, kept, layers, per_head))
        shown += kept
    return pooled(sums), shown


def _shown(batch: SceneBatch, matched: MatchedAttention, number: int) -> ShownInstance:
    """Return instance `number` of a scene, its maps still empty."""
    row = (matched.target.ids == number).nonzero().flatten().tolist()
    if not row:
        raise DataError(f'{batch.scene_names[0]}: no query is matched to an instance {number}. Matched are '
                        f'{sorted(matched.target.ids.tolist())}.')
    target = matched.target.select(torch.tensor(row[:1], device=matched.queries.device))
    return ShownInstance(batch.scene_names[0], number, int(target.labels), int(matched.queries[row[0]]),
                         batch.images[0].cpu(), batch.view_names[0], target.masks[0].cpu(), target.view_visibility[0].cpu())


def _scene_sums(model: nn.Module, batch: SceneBatch, matched: MatchedAttention, kept: list[ShownInstance],
                layers: Collection[int], per_head: bool) -> AttentionSums:
    """Run the second pass over one scene: add what it says of pixels, and fill the maps of the `kept` instances."""
    grid = tuple(size // model.backbone.patch_size for size in batch.images.shape[-2:])
    coverage = patch_coverage(matched.target.masks, grid)                                   # (n, V, h_p, w_p)
    rows = [matched.target.ids.tolist().index(item.instance) for item in kept]
    mass, special, uniform = {}, {}, {}

    def see(layer: LayerState, maps: Tensor) -> None:
        refuse_nonfinite({f'attention map of layer {layer.index}': maps}, batch.scene_names[0], BROKEN)
        every = patch_maps(maps, layer, grid)                                               # (heads, n, V, h_p, w_p)
        mean = every.mean(dim=0)
        mass[layer.index] = pixel_mass(mean, coverage).double().sum().item()
        special[layer.index] = (1 - mean.flatten(1).sum(-1)).double().sum().item()
        uniform['pixel_mass'] = (coverage.double().sum() / len(layer.view_index)).item()
        uniform['special_mass'] = len(matched.queries) * (1 - layer.is_patch.double().mean().item())
        for item, row in zip(kept, rows, strict=True):
            if layer.index in layers:
                item.maps[layer.index] = every[:, row].cpu()
                item.view_attention[layer.index] = matched.view_attention[matched.layers.index(layer.index), row].cpu()
    watch_tokens(model, batch.images, matched.queries, matched.layers, see, per_head and bool(kept))
    sums = view_sums(matched)
    for name, values in (('pixel_mass', mass), ('special_mass', special)):
        sums.per_layer[name] = np.array([values[layer] for layer in matched.layers])
    sums.uniform |= uniform
    return sums
