"""Maps by one linear layer from a patch to its pixels: the last step of Pi3 and MUSt3R."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F


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
