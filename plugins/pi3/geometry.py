"""Pi3's own head: points and confidence by one linear map from a patch to its pixels."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from jrs.heads.view_geometry import ViewGeometry
from jrs.registry import HEADS


class PixelHead(nn.Module):
    """A linear map from a patch to all of its pixels.

    Args:
        dim: width of the patch tokens.
        channels: values per pixel.
        patch_size: side of a patch in pixels.
    """

    def __init__(self, dim: int, channels: int, patch_size: int) -> None:
        super().__init__()
        self.patch_size = patch_size
        self.proj = nn.Linear(dim, channels * patch_size ** 2)

    def forward(self, patches: Tensor, grid: tuple[int, int]) -> Tensor:
        """Return maps (n, channels, H, W) for `patches` (n, h_p * w_p, dim)."""
        maps = self.proj(patches).transpose(1, 2).unflatten(2, grid)            # (n, channels * patch^2, h_p, w_p)
        return F.pixel_shuffle(maps, self.patch_size)                           # (n, channels, H, W)

    def values(self, grid: tuple[int, int]) -> tuple[float, float]:
        """Return the values of a view that its backward pass needs, and those alive at a time without one."""
        made = grid[0] * grid[1] * self.proj.out_features
        return made, made


@HEADS.register_module()
class Pi3Geometry(ViewGeometry):
    """Cameras, depth and confidence as Pi3 predicts them (backbones.md section 1), in our conventions (`ViewGeometry`).

    Args:
        dim_in: width of the taps, the backbone's `feature_dim`.
        dim: width of the decoders, the backbone's `embed_dim`.
        patch_size: side of a patch in pixels, the backbone's.
        depth: blocks of each of the three decoders.
        rope_base: base of their rotary position embedding.
        views_per_chunk: views that are read at a time, at most.
        activation_checkpointing: in training, recompute every chunk in the backward pass.
    """

    def __init__(self, dim_in: int, dim: int, patch_size: int, depth: int = 5, rope_base: float = 100.0,
                 views_per_chunk: int = 8, activation_checkpointing: bool = False) -> None:
        super().__init__(dim_in, dim, patch_size, lambda *widths: PixelHead(dim, sum(widths), patch_size), depth, rope_base,
                         views_per_chunk, activation_checkpointing)
