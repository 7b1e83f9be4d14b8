"""Learnable queries that read the backbone's tokens while they pass: cross-attention, then self-attention."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from jrs.draws import made_alone
from jrs.errors import ConfigError
from jrs.layers.block import Block
from jrs.layers.cross_attention import CrossBlock
from jrs.queries.insertion import chosen_layers, mixed_layers
from jrs.registry import INSERTIONS, QUERIES, build, check_keys
from jrs.structures import FeatureTaps, LayerState, QueryPredictions


@dataclass(frozen=True)
class QueryState:
    """The queries between two layers.

    Attributes:
        queries: (B, Q, C).
        track_views: whether view attention is collected.
        view_attention: one (B, Q, V) per cross-attention layer so far; empty without `track_views`.
        allowed: (B, Q, T) bool, what the next cross-attention may see; None = everything.
        supervised: after each supervised layer so far the queries (B, Q, C), and how many layers had been read.
    """

    queries: Tensor
    track_views: bool
    view_attention: tuple[Tensor, ...] = ()
    allowed: Tensor | None = None
    supervised: tuple[tuple[Tensor, int], ...] = ()


class HideUnlikelyTokens:
    """Masked attention: patch tokens unlike a query are hidden from it in the next layer (release section 5.5).

    Args:
        threshold: patch tokens with sigmoid(q . k) below it are hidden; strict.
    """

    def __init__(self, threshold: float = 0.4) -> None:
        self.threshold = threshold

    @torch.no_grad()
    def __call__(self, queries: Tensor, layer: LayerState, block: CrossBlock) -> Tensor:
        """Return (B, Q, T) bool, True where seen, from queries (B, Q, C) after `block`, with its own projections.

        Tokens that are not patches are always seen. A query that would see no patch of any view sees all.
        """
        similarity = block.attn.q_proj(queries) @ block.attn.k_proj(layer.tokens).transpose(1, 2)       # (B, Q, T)
        unlikely = similarity.sigmoid() < self.threshold
        sees_nothing = (unlikely | ~layer.is_patch).all(dim=-1, keepdim=True)           # (B, Q, 1)
        return ~(unlikely & layer.is_patch) | sees_nothing


@QUERIES.register_module()
class InsertedQueries(nn.Module):
    """The paper's queries (Sec. 3.2): at each inserted layer they attend to all tokens, then to each other.

    Image tokens are not changed. Source: segvggt_release.md sections 4 and 5. State keys: `tokens`,
    `cross_blocks.{layer}`, `self_blocks.{layer}`, `projection`; layers without blocks have no keys.

    Args:
        dim: C, the backbone's `embed_dim`.
        num_layers: the backbone's `num_query_layers`.
        num_queries: Q.
        num_heads: heads of both attentions.
        insertion: layers with cross-attention (`INSERTIONS`); None = all.
        self_insertion: layers with self-attention; None = those with cross-attention.
        mlp_ratio: hidden width of the feed-forward after cross-attention, over C.
        self_mlp_ratio: the same after self-attention.
        embedding_dim: D of the projected queries.
        init_values: LayerScale at the start.
        token_std: standard deviation of the queries at the start.
        mask_attention: None, or ``dict(threshold=...)`` for `HideUnlikelyTokens`.
        activation_checkpointing: in training, recompute every block in the backward pass.
        layer_kinds: the backbone's: 'scene', or 'special' where only special tokens have seen other views since the layer
            before; None = all 'scene'.
        special_layers: read at 'special' layers too; else they are passed over, which is said.
        supervised_layers: after these, of the inserted ones before the last, classes and masks are predicted in training,
            too, and supervised as the final ones are (deep supervision). Ours; the paper has none.
        carry: in a stream of views, carry the queries from view to view; False starts anew in each window of views and
            reads that at once. Ours; it changes nothing where a scene is seen at once, as in training.
    """

    full_precision = ('projection',)           # weights that are also used outside autocast

    def __init__(self, dim: int, num_layers: int, num_queries: int = 400, num_heads: int = 16,
                 insertion: dict | None = None, self_insertion: dict | None = None, mlp_ratio: float = 4.0,
                 self_mlp_ratio: float = 1.0, embedding_dim: int = 128, init_values: float = 0.01,
                 token_std: float = 1e-6, mask_attention: dict | None = None,
                 activation_checkpointing: bool = False, layer_kinds: Sequence[str] | None = None,
                 special_layers: bool = False, supervised_layers: Sequence[int] = (), carry: bool = False) -> None:
        super().__init__()
        self.num_queries = num_queries
        self.carry = carry
        self.activation_checkpointing = activation_checkpointing
        insertion = build(INSERTIONS, insertion or dict(type='AllLayers'), 'model.queries.insertion')
        self_insertion = build(INSERTIONS, self_insertion, 'model.queries.self_insertion')
        chosen = chosen_layers(insertion, num_layers, 'model.queries.insertion')
        self.cross_layers = mixed_layers(chosen, layer_kinds, special_layers, 'model.queries.insertion')
        self.self_layers = self.cross_layers if self_insertion is None else chosen_layers(
            self_insertion, num_layers, 'model.queries.self_insertion')
        self.supervised_layers = _supervised(supervised_layers, self.cross_layers)
        self.tokens = nn.Parameter(torch.randn(1, num_queries, dim) * token_std)        # (1, Q, C)
        self.cross_blocks = nn.ModuleDict(made_alone(
            'cross_blocks', self.cross_layers, lambda: CrossBlock(dim, num_heads, mlp_ratio, init_values)))
        self.self_blocks = nn.ModuleDict(made_alone(
            'self_blocks', self.self_layers, lambda: Block(dim, num_heads, self_mlp_ratio, qk_norm=True,
                                                           init_values=init_values)))
        self.projection = nn.Linear(dim, embedding_dim)
        self.hide = _masked_attention(mask_attention)

    def start(self, num_scenes: int, track_views: bool = False) -> QueryState:
        """Return the learned queries for `num_scenes` scenes; `track_views` collects view attention on the way."""
        return QueryState(self.tokens.expand(num_scenes, -1, -1), track_views)

    def read(self, state: QueryState, layer: LayerState) -> QueryState:
        """Return the queries after `layer`: unchanged when nothing is inserted there."""
        name = str(layer.index)
        if layer.index in self.cross_layers:
            state = self._cross(state, layer, self.cross_blocks[name])
        if layer.index in self.self_layers:
            state = replace(state, queries=self._run(self.self_blocks[name], state.queries))
        if self.training and layer.index in self.supervised_layers:
            state = replace(state, supervised=(*state.supervised, (state.queries, len(state.view_attention))))
        return state

    def _cross(self, state: QueryState, layer: LayerState, block: CrossBlock) -> QueryState:
        view_index = layer.view_index if state.track_views else None
        queries, attention = self._run(block, state.queries, layer.tokens, view_index, layer.num_views, state.allowed,
                                       layer.tokens_per_view)
        allowed = None
        if self.hide is not None and layer.index != self.cross_layers[-1]:
            allowed = self.hide(queries, layer, block)
        tracked = state.view_attention + ((attention,) if state.track_views else ())
        return replace(state, queries=queries, view_attention=tracked, allowed=allowed)

    def _run(self, block: nn.Module, *inputs):
        if self.activation_checkpointing and self.training:
            return checkpoint(block, *inputs, use_reentrant=False)
        return block(*inputs)

    def attention_maps(self, state: QueryState, layer: LayerState, queries: Tensor, per_head: bool = False) -> Tensor:
        """Return where `queries` (n,) will look when they `read` an inserted `layer`: (B, n, T), rows sum to 1.

        `per_head` gives (B, heads, n, T) instead of the mean over heads.
        """
        block = self.cross_blocks[str(layer.index)]
        allowed = None if state.allowed is None else state.allowed[:, queries]
        return block.attn.attention_maps(block.norm_q(state.queries[:, queries]), block.norm_kv(layer.tokens), allowed,
                                         per_head)

    def finish(self, state: QueryState, taps: FeatureTaps | None = None, features: Tensor | None = None) -> QueryPredictions:
        """Return the projected queries (B, Q, D), and view attention (L, B, Q, V) where it was tracked.

        `taps` and the instance features (B, V, D, h, w) are not read; decoders that come after the backbone need them.
        """
        levels = [*state.supervised, (state.queries, len(state.view_attention))]
        return replace(self._level(state, *levels[-1]), auxiliary=[self._level(state, *level) for level in levels[:-1]])

    def _level(self, state: QueryState, queries: Tensor, layers: int) -> QueryPredictions:
        """Return what `queries` (B, Q, C) say after so many layers."""
        with torch.autocast(queries.device.type, enabled=False):
            embedding = self.projection(queries.to(self.projection.weight.dtype))
        return QueryPredictions(embedding, view_attention=torch.stack(state.view_attention[:layers]) if layers else None)


def _supervised(layers: Sequence[int], inserted: Sequence[int]) -> frozenset[int]:
    """Return the layers that are supervised.

    Raises:
        ConfigError: nothing is inserted at one of them, or it is the last, which always is.
    """
    if wrong := [layer for layer in layers if layer not in inserted[:-1]]:
        raise ConfigError(f'model.queries.supervised_layers must be of the inserted layers before the last, '
                          f'{list(inserted[:-1])}; got {wrong}.')
    return frozenset(layers)


def _masked_attention(options: dict | None) -> HideUnlikelyTokens | None:
    if options is None:
        return None
    if not isinstance(options, dict):
        raise ConfigError(f'model.queries.mask_attention must be None or dict(threshold=...), got {options!r}')
    check_keys(HideUnlikelyTokens, options, 'model.queries.mask_attention')
    return HideUnlikelyTokens(**options)
