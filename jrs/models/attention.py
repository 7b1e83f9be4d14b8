"""Where the queries of true instances look: per view from one pass, per token from a second one."""

from __future__ import annotations

from collections.abc import Callable, Collection

import torch
from torch import Tensor, nn

from jrs.alignment.cost import required_attention
from jrs.errors import ConfigError
from jrs.models.targets import instance_targets
from jrs.structures import Instances, InstanceTargets, LayerState, Match, MatchedAttention, QueryPredictions, SceneBatch


@torch.no_grad()
def matched_attention(model: nn.Module, queries: QueryPredictions | None, batch: SceneBatch,
                      instances: list[Instances] | None = None) -> list[MatchedAttention]:
    """Return the view attention of the queries that belong to the true instances, per scene.

    Args:
        model: a SegVGGT with a matcher.
        queries: its predictions for `batch`, made with `track_views`.
        batch: B scenes with true instances.
        instances: of B scenes what was found in them: queries belong to instances by `best_scored`. None = the training
            matcher assigns them.

    Raises:
        ConfigError: the model has no queries or no matcher, or its queries do not report view attention.
        DataError: the batch has no true instances.
    """
    if queries is None or model.matcher is None and instances is None:
        raise ConfigError('model.queries or model.matcher is None: no query belongs to a true instance.')
    required_attention(queries, 'The comparison of attention with true instances')
    targets = instance_targets(batch, queries.features.shape[-2:], model.min_target_pixels)
    matches = model.match(queries, targets) if instances is None else list(map(best_scored, instances, targets))
    layers = inserted_layers(model)
    return [MatchedAttention(layers, match.queries, target.select(match.instances),
                             queries.view_attention[:, index, match.queries])
            for index, (target, match) in enumerate(zip(targets, matches, strict=True))]


def best_scored(found: Instances, target: InstanceTargets) -> Match:
    """Return for the true instances of one scene the queries of the best-scored predictions that are of them.

    A prediction is of the instance with which its mask has the largest IoU. An instance that no prediction is of has no
    query; the query of a mask has one instance.
    """
    true = target.flat_masks.float()                                                # (G, V*h*w)
    of_instance: dict[int, int] = {}                                                # instance -> query
    for query, mask in zip(found.queries.tolist(), found.packed, strict=True) if len(true) else ():     # best first
        predicted = mask.flatten().float()
        overlap = true @ predicted                                                  # (G,)
        share = overlap / (true.sum(1) + predicted.sum() - overlap).clamp_min(1)
        if share.max() > 0 and query not in of_instance.values():
            of_instance.setdefault(int(share.argmax()), query)
    pairs = sorted((query, instance) for instance, query in of_instance.items())
    queries, instances = torch.tensor(pairs, dtype=torch.int64, device=true.device).reshape(-1, 2).T
    return Match(queries, instances)


def inserted_layers(model: nn.Module) -> tuple[int, ...]:
    """Return the L layers at which queries read tokens; queries that do not say read at all layers."""
    return tuple(getattr(model.queries, 'cross_layers', range(model.backbone.num_query_layers)))


@torch.no_grad()
def watch_tokens(model: nn.Module, images: Tensor, queries: Tensor, layers: Collection[int],
                 see: Callable[[LayerState, Tensor], None], per_head: bool = False) -> None:
    """Call ``see(layer, maps)`` with the attention of some queries over all tokens, one layer at a time.

    Args:
        model: a SegVGGT.
        images: (1, V, 3, H, W) in [0, 1].
        queries: (n,) int64.
        layers: which of the inserted layers.
        see: gets the LayerState and maps (heads, n, T), rows sum to 1, special tokens included.
        per_head: False hands over the mean over heads, as one head.

    Raises:
        ConfigError: the queries cannot show maps, or read nothing at one of the layers.
    """
    if not hasattr(model.queries, 'attention_maps'):
        raise ConfigError(f'{type(model.queries).__name__} has no attention_maps: maps are there for queries that read '
                          'inside the backbone (InsertedQueries).')
    absent = sorted(set(layers) - set(inserted_layers(model)))
    if absent:
        raise ConfigError(f'the queries of this model do not read at the layers {absent}; they read at '
                          f'{list(inserted_layers(model))}.')

    def watch(state, layer: LayerState) -> None:
        if layer.index in layers:
            maps = model.queries.attention_maps(state, layer, queries, per_head)[0]
            see(layer, maps if per_head else maps[None])
    model.read_layers(images, watch=watch)
    model.backbone.features()                                       # hand over, so that the backbone keeps nothing


def patch_maps(maps: Tensor, layer: LayerState, grid: tuple[int, int]) -> Tensor:
    """Return maps over tokens (..., T) as maps over patches (..., V, h_p, w_p); special tokens are left out.

    Args:
        maps: attention over the tokens of `layer`.
        layer: whose patch tokens stand in the order of the patch grid within each view.
        grid: (h_p, w_p).

    Raises:
        ConfigError: a view has not one token per patch (tokens are merged).
    """
    patches = layer.is_patch.nonzero().flatten()                                    # (V*h_p*w_p,)
    views = layer.view_index[patches]
    if views.bincount(minlength=layer.num_views).tolist() != [grid[0] * grid[1]] * layer.num_views:
        raise ConfigError(f'maps need one token per patch, {grid[0]} x {grid[1]} in each view, and layer {layer.index} has '
                          f'others: switch the merging of tokens off.')
    order = patches[views.argsort(stable=True)]
    return maps[..., order].unflatten(-1, (layer.num_views, *grid))                 # (..., V, h_p, w_p)
