"""Causal attention over views: a view sees itself and earlier ones, in one pass or one after the other with a cache."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from jrs.errors import ConfigError
from jrs.layers.attention import Mix, SceneAttention, fused_attention
from jrs.layers.layout import Layout
from jrs.registry import ATTENTIONS


class _Causal(SceneAttention):
    """What the parts below share: whom a view sees. Tokens of no view see each other, and all views see them.

    Args:
        window: a view sees the last `window` views, itself among them; None = all.
        first: and the first `first` views, which hold the world's frame; only where there is a window.
    """

    special_steps = True
    causal = True

    def __init__(self, window: int | None = None, first: int = 1) -> None:
        super().__init__()
        if window is not None and window < 1 or first < 0:
            raise ConfigError(f'{type(self).__name__}: a view sees at least itself, window >= 1 or None, and first >= 0; '
                              f'got window={window}, first={first}.')
        self.window, self.first = window, first

    def sees(self, view: int, other: int) -> bool:
        """Return whether `view` sees `other`, both counted from the beginning of the stream."""
        recent = self.window is None or other > view - self.window
        return other <= view and (recent or other < self.first)


@ATTENTIONS.register_module()
class KeyValueCache(_Causal):
    """Every pass goes on with one stream of views until `reset`; keys and values of earlier ones are kept. For inference.

    Views of a pass see earlier ones and those of earlier passes, as `CausalViews` lets them in one pass. Kept are keys after
    norm and rotation, which do not depend on a view's number. With a window it is bounded: of each block the `first` and
    the last `window` views.

    Args:
        window, first: as of `CausalViews`.
    """

    recomputable = False

    def __init__(self, window: int | None = None, first: int = 1) -> None:
        super().__init__(window, first)
        self._kept: dict[int, dict[tuple[int, int], tuple[Tensor, Tensor]]] = {}    # block -> view, step -> keys, values
        self._counts: dict[int, int] = {}

    @property
    def seen(self) -> int:
        """Views that were passed since `reset`."""
        return max(self._counts.values(), default=0)

    def reset(self) -> None:
        """Forget the stream."""
        self._kept, self._counts = {}, {}

    @contextmanager
    def streaming(self, window: int | None = None) -> Iterator[None]:
        """Begin a stream, and forget it at the end; views see at most `window` views, beside the first."""
        self.reset()
        usual, self.window = self.window, _narrower(self.window, window)
        try:
            yield
        finally:
            self.window = usual
            self.reset()

    def held_bytes(self) -> int:
        """Return the size of all keys and values."""
        return sum(value.nbytes for views in self._kept.values() for pair in views.values() for value in pair)

    def kept(self, block: int) -> tuple[Tensor, Tensor]:
        """Return keys and values (B, heads, n * P, head width) of the n views that a block keeps, oldest first."""
        keys, values = zip(*self._kept[block].values(), strict=True)
        return torch.cat(keys, dim=2), torch.cat(values, dim=2)

    def at(self, block: int, layout: Layout) -> Mix:
        """Return attention to what was kept and to the views of the pass up to one's own."""
        def mix(query: Tensor, key: Tensor, value: Tensor, tokens: Tensor) -> Tensor:
            self._begin(block, layout, key)
            of_views, extra = zip(*(_parted(heads, layout) for heads in (query, key, value)), strict=True)
            attended = [self._attend(block, *view, extra, tokens) for view in zip(*of_views, strict=True)]
            return torch.cat([*attended, fused_attention(*extra, tokens)] if layout.num_extra else attended, dim=2)
        return mix

    def _begin(self, block: int, layout: Layout, key: Tensor) -> None:
        """Raise where this pass is not the next one of the stream."""
        if torch.is_grad_enabled() and key.requires_grad:
            raise ConfigError('KeyValueCache is for inference: run it under torch.no_grad(); CausalViews is for training.')
        before = self._counts.get(block, 0)
        others = {pair[0].shape[0] for pair in self._kept.get(block, {}).values()} - {key.shape[0]}
        if before != layout.seen or others:
            what = f'{others.pop()} scenes and then {key.shape[0]}' if others else (
                f'{layout.seen} views, of which block {block} has seen {before}: an earlier pass was not run to its end')
            raise RuntimeError(f'the stream has {what}. Begin anew: reset().')

    def _attend(self, block: int, query: Tensor, key: Tensor, value: Tensor, extra: tuple[Tensor, ...],
                tokens: Tensor) -> Tensor:
        """Return what the next view attends to, (B, heads, P, head width), after its keys and values were kept.

        `extra` are queries, keys and values (B, heads, E, head width) of the tokens of no view.
        """
        view = self._counts.get(block, 0)
        self._keep(block, view, key, value)
        self._counts[block] = view + 1
        seen = (torch.cat(pair, dim=2) for pair in zip(self.kept(block), extra[1:], strict=True))
        return fused_attention(query, *seen, tokens)

    def _keep(self, block: int, view: int, key: Tensor, value: Tensor, step: int = 0) -> None:
        """Keep a view, and those before it that it sees; copies, so that the tokens of a whole pass can go."""
        kept = self._kept.get(block, {})
        self._kept[block] = {place: pair for place, pair in kept.items() if self.sees(view, place[0])}
        self._kept[block][view, step] = key.clone(), value.clone()


@ATTENTIONS.register_module()
class CausalViews(_Causal):
    """A view sees itself and earlier views, not later ones: StreamVGGT's attention (backbones.md section 6.2).

    In the order of the views inside the backbone; one attention per view, without a mask. Inside `streaming` a pass goes on
    with those before it, by a `KeyValueCache`: the same numbers as in one pass over all views.

    Args:
        window: a view sees the last `window` views, itself among them; None = all, as released.
        first: and the first `first` views, which hold the world's frame; only where there is a window. Ours.
    """

    def __init__(self, window: int | None = None, first: int = 1) -> None:
        super().__init__(window, first)
        self._cache: KeyValueCache | None = None

    @property
    def seen(self) -> int:
        """Views of the stream so far; 0 outside of one."""
        return 0 if self._cache is None else self._cache.seen

    @contextmanager
    def streaming(self, window: int | None = None) -> Iterator[None]:
        """Let later passes see earlier ones; views see at most `window` views, beside the first."""
        self._cache = self._new_cache(_narrower(self.window, window))
        try:
            yield
        finally:
            self._cache = None

    def held_bytes(self) -> int:
        """Return what the cache of a stream holds."""
        return 0 if self._cache is None else self._cache.held_bytes()

    def at(self, block: int, layout: Layout) -> Mix:
        """Return attention to one's own and earlier views."""
        if self._cache is not None:
            return self._cache.at(block, layout)

        def mix(query: Tensor, key: Tensor, value: Tensor, tokens: Tensor) -> Tensor:
            queries, extra = _parted(query, layout)
            attended = [fused_attention(each, *(self._seen_by(view, heads, layout) for heads in (key, value)), tokens)
                        for view, each in enumerate(queries)]                   # V of (B, heads, P, head width)
            if layout.num_extra:
                attended.append(fused_attention(extra, *(_parted(heads, layout)[1] for heads in (key, value)), tokens))
            return torch.cat(attended, dim=2)
        return mix

    def _seen_by(self, view: int, heads: Tensor, layout: Layout) -> Tensor:
        """Return the tokens of `heads` (B, heads, V * P + E, width) that `view` sees."""
        per_view, end = layout.num_tokens, (view + 1) * layout.num_tokens
        parts = [heads[:, :, :end]]
        if self.window is not None and view >= self.window + self.first:
            parts = [heads[:, :, :self.first * per_view], heads[:, :, end - self.window * per_view:end]]
        if layout.num_extra:
            parts.append(heads[:, :, -layout.num_extra:])
        return parts[0] if len(parts) == 1 else torch.cat(parts, dim=2)

    def _new_cache(self, window: int | None) -> KeyValueCache:
        return KeyValueCache(window, self.first)


class _SharedCache(KeyValueCache):
    """One cache per block of a trunk, which all of its refinement steps fill."""

    def __init__(self, trunk_depth: int, window: int | None) -> None:
        super().__init__(window)
        self.trunk_depth = trunk_depth

    def at(self, block: int, layout: Layout) -> Mix:
        """Return attention to all that the block kept, of earlier views and steps.

        Raises:
            ConfigError: several views in one pass, of which the release says nothing.
        """
        if layout.num_views > 1:
            raise ConfigError(f'ReleasedTrunk streams one view at a time, got {layout.num_views} in a pass.')
        return super().at(block, layout)

    def _attend(self, block: int, query: Tensor, key: Tensor, value: Tensor, extra: tuple[Tensor, ...],
                tokens: Tensor) -> Tensor:
        view = self._counts.get(block, 0)
        self._counts[block] = view + 1
        step, shared = divmod(block, self.trunk_depth)
        self._keep(shared, view, key, value, step)
        return fused_attention(query, *self.kept(shared), tokens)


@ATTENTIONS.register_module()
class ReleasedTrunk(CausalViews):
    """The camera trunk as StreamVGGT's released code streams it: for comparison with published streaming numbers.

    In one pass it is `CausalViews`. In a stream the refinement steps share one cache per block: step j of a view attends to
    all steps of past views and to steps 0 .. j of its own, which is not what one pass gives (off by 8 %).

    Args:
        trunk_depth: blocks of the trunk, as of the camera head.
    """

    def __init__(self, trunk_depth: int = 4) -> None:
        super().__init__()
        self.trunk_depth = trunk_depth

    def _new_cache(self, window: int | None) -> KeyValueCache:
        return _SharedCache(self.trunk_depth, window)


def _parted(heads: Tensor, layout: Layout) -> tuple[tuple[Tensor, ...], Tensor]:
    """Return the V views (B, heads, P, width) of `heads` (B, heads, V * P + E, width), then the E tokens of none."""
    views, extra = heads.split([layout.num_views * layout.num_tokens, layout.num_extra], dim=2)
    return views.split(layout.num_tokens, dim=2), extra


def _narrower(one: int | None, other: int | None) -> int | None:
    """Return the narrower of two windows; None is no bound."""
    return min((window for window in (one, other) if window is not None), default=None)
