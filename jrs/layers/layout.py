"""The tokens of a scene on their way through a backbone, and where they stand: which are patches, of which view each is."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from jrs.layers.rope import GridRotation, patch_positions


@dataclass(frozen=True)
class Layout:
    """The tokens of one scene: V views of P tokens each, the same in all views, then E tokens of no view.

    Attributes:
        num_views: V.
        grid: (h_p, w_p) patches along the height and the width of an image.
        image_size: (H, W) in pixels.
        positions: (P, 2) int64 row and column of each token of a view; patches count from (1, 1), the others are at (0, 0).
        is_patch: (P,) bool.
        patch_index: (h_p * w_p,) int64, where along P the patches stand, row-major over the grid.
        num_extra: E.
        seen: views of the same stream that were passed before these; 0 where a scene is seen at once.
        rotations: name -> rotary embedding, (B, heads, N, head width) -> the same; a `Step` names the one that it uses. N is
            P for a step inside views, V * P + E for one over the scene, V * K + E over the K special tokens of each view.
    """

    num_views: int
    grid: tuple[int, int]
    image_size: tuple[int, int]
    positions: Tensor
    is_patch: Tensor
    patch_index: Tensor
    num_extra: int = 0
    seen: int = 0
    rotations: Mapping[str, Callable[[Tensor], Tensor]] = field(default_factory=dict)

    @classmethod
    def of(cls, images: Tensor, patch_size: int, front: int = 0, behind: int = 0, num_extra: int = 0,
           seen: int = 0) -> Layout:
        """Return the layout for `images` (B, V, 3, H, W) with `front` special tokens before the patches of each view and
        `behind` after them, and `num_extra` tokens of no view."""
        height, width = images.shape[-2:]
        grid = (height // patch_size, width // patch_size)
        positions = patch_positions(grid, front, images.device)                 # (front + h_p * w_p, 2)
        if behind:
            positions = torch.cat([positions, positions.new_zeros(behind, 2)])  # (P, 2)
        patch_index = torch.arange(front, front + grid[0] * grid[1], device=images.device)
        return cls(images.shape[1], grid, (height, width), positions, positions[:, 0].gt(0), patch_index, num_extra, seen)

    @classmethod
    def of_tokens(cls, num_views: int, device: torch.device, seen: int = 0) -> Layout:
        """Return the layout of one token per view, which is no patch."""
        none = torch.zeros(0, dtype=torch.int64, device=device)
        return cls(num_views, (0, 0), (0, 0), none.new_zeros(1, 2), none.new_zeros(1, dtype=torch.bool), none, seen=seen)

    @property
    def num_tokens(self) -> int:
        """P."""
        return len(self.is_patch)

    @property
    def special_index(self) -> Tensor:
        """(K,) int64, where along P the tokens stand that are no patches."""
        return (~self.is_patch).nonzero().flatten()

    def scene_index(self) -> tuple[Tensor, Tensor]:
        """Return the view (T,) int64, -1 = of none, and `is_patch` (T,) of all tokens of a scene, T = V * P + E."""
        views = torch.arange(self.num_views, device=self.is_patch.device)
        view_index, is_patch = views.repeat_interleave(self.num_tokens), self.is_patch.repeat(self.num_views)
        if self.num_extra:
            view_index = torch.cat([view_index, view_index.new_full((self.num_extra,), -1)])
            is_patch = torch.cat([is_patch, is_patch.new_zeros(self.num_extra)])
        return view_index, is_patch

    def turned(self, head_width: int, base: float = 100.0) -> Layout:
        """Return this layout with rotations 'view' and 'scene' by grid positions (`GridRotation`), alike in all views."""
        scene = self.positions.repeat(self.num_views, 1)                        # (V * P, 2)
        if self.num_extra:
            scene = torch.cat([scene, scene.new_zeros(self.num_extra, 2)])
        return replace(self, rotations={'view': GridRotation(self.positions, head_width, base),
                                        'scene': GridRotation(scene, head_width, base)})

    def of_special(self) -> Layout:
        """Return the layout of the special tokens alone."""
        special, none = self.special_index, self.patch_index[:0]
        return replace(self, grid=(0, 0), positions=self.positions[special], is_patch=self.is_patch[special],
                       patch_index=none)


def evenly_spaced(num_views: int, count: int, device: torch.device | None = None) -> Tensor:
    """Return `count` of `num_views` views, first and last among them, rounded down, (count,) int64; all of fewer."""
    count = min(count, num_views)
    return torch.linspace(0, num_views - 1, count, dtype=torch.float64).long().to(device)


def first_and_other_views(tokens: Tensor, num_scenes: int, num_views: int, seen: int = 0) -> Tensor:
    """Return the special tokens (B, V, K, C) of all views, where the first view of a scene has some of its own.

    Args:
        tokens: (1, 2, K, C), those of the first view, then those of every other one.
        num_scenes, num_views: B and V.
        seen: views of the same stream that were passed before: then none of these is the first.
    """
    firsts = 0 if seen else 1
    others = tokens[:, 1:].expand(-1, num_views - firsts, -1, -1)
    return torch.cat([tokens[:, :firsts], others], dim=1).expand(num_scenes, -1, -1, -1)


@dataclass(frozen=True)
class State:
    """The tokens between two steps. Hooks of a backbone never change one: they return another (`dataclasses.replace`).

    Attributes:
        views: (B, V, P, C) tokens of each view, views in the order of the model.
        extra: (B, E, C) tokens of no view; None without any.
        order: (B, V) int64, number of the input view that stands at each place, may differ between scenes; None = as given.
        previous: (B, V, P, C) `views` before the last step; None before the first.
        kept: what the subclass carries to `tap` and `finish` (of the encoder, say), its own names; not reordered.
    """

    views: Tensor
    extra: Tensor | None = None
    order: Tensor | None = None
    previous: Tensor | None = None
    kept: Mapping[str, Tensor] = field(default_factory=dict)

    def in_input_order(self) -> State:
        """Return the same tokens with the views in the order of the images."""
        if self.order is None:
            return self
        place = self.order.argsort(dim=1)[..., None, None]                      # (B, V, 1, 1): where each input view stands

        def back(tokens: Tensor | None) -> Tensor | None:
            return None if tokens is None else tokens.take_along_dim(place, dim=1)
        return replace(self, views=back(self.views), previous=back(self.previous), order=None)


@dataclass(frozen=True)
class WatchedStep:
    """What a block across views saw and gave in one pass, for `StepBackbone.watching`.

    Attributes:
        seen, given: (B, V * P + E, C) tokens, views in the order of the images, those of no view last.
        layout: where they stand.
        rope: rotary embedding of the block; None without one.
    """

    seen: Tensor
    given: Tensor
    layout: Layout
    rope: Callable[[Tensor], Tensor] | None

    def by_view(self, tokens: Tensor) -> Tensor:
        """Return `seen` or `given` as (B, V, P, C), without the tokens of no view."""
        count = self.layout.num_views * self.layout.num_tokens
        return tokens[:, :count].unflatten(1, (self.layout.num_views, -1))
