"""IGGT's heads: points that hand out their fusion maps, and the instance embedding of each pixel made with them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from jrs_plugins.iggt.windows import CrossAttention, WindowCross, WindowSelf
from torch import Tensor, nn
from torch.nn import functional as F

from jrs.errors import ConfigError
from jrs.heads.points import PointHead
from jrs.layers.dpt import DenseFusion, HeadMemory, chunk_memory, output_convolutions, resize_map
from jrs.registry import HEADS
from jrs.structures import FeatureTaps

COARSE, FINE = 'point_fusion_coarse', 'point_fusion_fine'
SHORTEST = 1e-12                               # embedding before it is brought to length 1
# Values alive for a place of the finest fused map, eight to a patch along each side; measured (tests/plugins/test_iggt.py).
SAVED_WIDE, SAVED_REST = 24.4, 661             # for the backward pass: maps of width F; beside them
ALIVE_WINDOWS = 8.05                           # without one, maps of width F: in overlapping windows,
ALIVE_WIDE, ALIVE_REST = 5.17, 552             # and in the last attention; beside them


@HEADS.register_module()
class IGGTPointHead(PointHead):
    """`PointHead` that leaves what its fusion has after the coarsest block (h_p, w_p) and after the third (4 h_p, 4 w_p).

    Args:
        dim_in, features, out_channels, views_per_chunk, activation_checkpointing, skip: as of `ConfidentMaps`.
        patch_size: side of a patch in pixels, the backbone's, for the estimate of memory.
    """

    leaves = (COARSE, FINE)

    def __init__(self, dim_in: int, features: int = 256, out_channels: Sequence[int] = (256, 512, 1024, 1024),
                 views_per_chunk: int = 8, activation_checkpointing: bool = False, skip: str = 'rectified',
                 patch_size: int = 14) -> None:
        super().__init__(dim_in, features, out_channels, views_per_chunk, activation_checkpointing, skip)
        self.patch_size = patch_size

    def forward(self, features: FeatureTaps) -> tuple[Tensor, Tensor]:
        """Return points (B, V, H, W, 3) and their confidence > 1 (B, V, H, W), from four taps (B, V, P, dim_in)."""
        def finish(branches: list[Tensor]) -> tuple[Tensor, Tensor, Tensor]:
            stages, handed_over = [], (branches.pop(0) for _ in self.projects)  # nothing is held longer than it is read
            self.scratch.fuse(handed_over, stages=stages)
            return self.scratch.output_conv2(self.enlarged(stages.pop(), features.image_size)), stages[0], stages[2]
        maps, coarse, fine = self.read(features, finish)                        # (B, V, 4, H, W), (B, V, F, h, w) each
        features.leave(COARSE, coarse)
        features.leave(FINE, fine)
        return self.quantity(maps[:, :, :-1]), 1 + maps[:, :, -1].exp()

    def memory(self, views: int, size: tuple[int, int], device: torch.device) -> HeadMemory:
        """Return what `PointHead.memory` does, with the fusion maps that stay: 1 + 16 places of a patch."""
        found, grid = super().memory(views, size, device), tuple(side // self.patch_size for side in size)
        return replace(found, outputs=found.outputs + 4.0 * 17 * grid[0] * grid[1] * self.scratch.features)


@HEADS.register_module()
class IGGTFeatures(DenseFusion):
    """An embedding of length 1 for every pixel, near for pixels of one instance (baselines.md section 4.4).

    The adaptor brings four taps to four levels; the part head fuses them, and reads the point head's fusion maps on the way:
    all pixels of a view at the coarsest level, windows of 8 x 8 at 4 h_p x 4 w_p. The weights `cross_attention_1` are of an
    attention whose result upstream throws away: they are kept for the file's sake and never learn.

    Args:
        dim_in: width of the taps, the backbone's `feature_dim`.
        features: width F of adaptor, fusion and the point head's fusion; a multiple of 8 and of both numbers of heads.
        channels: of the embedding.
        cross_heads: heads of the attention at the coarsest level.
        window_heads: heads of those in windows, which have widths F and F / 2.
        views_per_chunk: views that are decoded at a time, at most.
        activation_checkpointing: in training, recompute every chunk in the backward pass.
        patch_size: side of a patch in pixels, the backbone's, for the estimate of memory.

    Raises:
        ConfigError: a width that heads do not divide.
    """

    reads = (COARSE, FINE)
    down_ratio = 1
    example = dict(features=16, cross_heads=2, window_heads=2)

    def __init__(self, dim_in: int, features: int = 256, channels: int = 8, cross_heads: int = 8, window_heads: int = 4,
                 views_per_chunk: int = 8, activation_checkpointing: bool = False, patch_size: int = 14) -> None:
        if features % 8 or features % cross_heads or (features // 2) % window_heads:
            raise ConfigError(f'IGGTFeatures.features must be a multiple of 8, of cross_heads and of twice window_heads, '
                              f'got features={features}, cross_heads={cross_heads}, window_heads={window_heads}.')
        super().__init__(dim_in, features, (features,) * 4, views_per_chunk, activation_checkpointing, positions=False)
        self.embedding_dim, self.features, self.patch_size = channels, features, patch_size
        self.resize_layers = adaptor_levels(features)
        self.scratch.output_conv1 = nn.Conv2d(features, features // 2, 3, padding=1)
        self.scratch.output_conv2 = output_convolutions(features, channels)
        self.cross_attention_1 = CrossAttention(features, cross_heads).requires_grad_(False)
        self.cross_attention_2 = CrossAttention(features, cross_heads)
        self.window_cross_attention = WindowCross(features, window_heads)
        self.window_self_atten = WindowSelf(features // 2, window_heads)

    def map_shapes(self, grid: tuple[int, int]) -> dict[str, tuple[int, int, int]]:
        """Return the shapes behind (B, V) of the maps that it reads, for a patch grid (h_p, w_p)."""
        return {COARSE: (self.features, *grid), FINE: (self.features, 4 * grid[0], 4 * grid[1])}

    def memory(self, views: int, size: tuple[int, int], device: torch.device) -> HeadMemory:
        """Return what the embeddings of `views` views of (H, W) = `size` need."""
        patches, pixels = size[0] // self.patch_size * (size[1] // self.patch_size), size[0] * size[1]
        finest, made = 64 * patches, self.embedding_dim * pixels
        taps = sum(project.in_channels for project in self.projects)
        saved = finest * (SAVED_WIDE * self.features + SAVED_REST) + 2 * made + 2 * taps * patches
        at_once = min(views, self.views_at_a_time(device, size, views))
        alive = finest * max(ALIVE_WINDOWS * self.features, ALIVE_WIDE * self.features + ALIVE_REST)
        chunk = max(chunk_memory(alive, made, views, at_once), (made + 2 * pixels) * views)    # these to bring to length 1
        return HeadMemory(4.0 * chunk, 4.0 * saved, at_once if self.activation_checkpointing else None)

    def forward(self, features: FeatureTaps) -> Tensor:
        """Return embeddings of length 1, (B, V, channels, H, W), from four taps (B, V, P, dim_in) and maps of `reads`."""
        return F.normalize(self.raw(features), dim=2, eps=SHORTEST)

    def raw(self, features: FeatureTaps) -> Tensor:
        """Return the embeddings (B, V, channels, H, W) at the length that they have.

        Raises:
            ValueError: an odd patch grid, which windows of 8 do not cover.
            ConfigError: the point head's fusion has another width.
        """
        if features.patch_grid[0] % 2 or features.patch_grid[1] % 2:
            raise ValueError(f'IGGT needs even numbers of patches along both sides, got {features.patch_grid[0]} x '
                             f'{features.patch_grid[1]}: its windows have 8 x 8 pixels of a map with 4 to a patch. Use '
                             'sides that are multiples of twice the patch size (28 pixels): *_dataset.patch_size=28.')
        coarse, fine = (features.maps[name] for name in self.reads)
        if fine.shape[2] != self.features:
            raise ConfigError(f'IGGTFeatures has features={self.features} and the point head {fine.shape[2]}: give both one '
                              'width, model.feature_head.features and model.point_head.features.')
        size = features.image_size
        return self.read(features, lambda branches, *maps: self._decode(branches, *maps, size), (coarse, fine))

    def _decode(self, branches: list[Tensor], coarse: Tensor, fine: Tensor, size: tuple[int, int]) -> Tensor:
        """Return the embeddings (n, channels, *size) of four branches (n, F, h_j, w_j), finest first, and the maps."""
        scratch = self.scratch
        levels = [layer(branch) for layer, branch in zip((scratch.layer1_rn, scratch.layer2_rn, scratch.layer3_rn,
                                                          scratch.layer4_rn), branches, strict=True)]
        sizes = [level.shape[-2:] for level in levels]
        fused = self.cross_attention_2(scratch.refinenet4(levels[3], None, sizes[2]), coarse)
        fused = scratch.refinenet3(fused, levels[2], sizes[1])
        fused = self.window_cross_attention(scratch.refinenet2(fused, levels[1], sizes[0]), fine)
        fused = scratch.refinenet1(fused, levels[0], [2 * side for side in sizes[0]])           # (n, F, 8 h_p, 8 w_p)
        return scratch.output_conv2(resize_map(self.window_self_atten(scratch.output_conv1(fused)), size))


def adaptor_levels(width: int) -> nn.ModuleList:
    """Return what brings four maps of `width` channels to 4, 2, 1 and 1/2 of the patch grid."""
    return nn.ModuleList([
        nn.Sequential(nn.ConvTranspose2d(width, width, 4, stride=2, padding=1), Unit(width),
                      nn.ConvTranspose2d(width, width, 4, stride=2, padding=1), Unit(width)),
        nn.Sequential(nn.ConvTranspose2d(width, width, 2, stride=2), Unit(width)),
        nn.Sequential(nn.Identity(), Unit(width)),
        nn.Sequential(nn.Conv2d(width, width, 3, stride=2, padding=1), Unit(width))])


class Unit(nn.Module):
    """Residual convolutions between two of 1 x 1.

    Args:
        width: channels.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.input_proj = nn.Sequential(nn.Conv2d(width, width, 1, bias=False), FixedNorm(width), nn.ReLU())
        self.residual_conv = nn.Sequential(nn.Conv2d(width, width, 3, padding=1, bias=False), FixedNorm(width), nn.ReLU(),
                                           nn.Conv2d(width, width, 3, padding=1, bias=False), FixedNorm(width))
        self.output_proj = nn.Conv2d(width, width, 1)

    def forward(self, maps: Tensor) -> Tensor:
        """Return (n, C, h, w) for `maps` (n, C, h, w)."""
        entered = self.input_proj(maps)
        return self.output_proj(self.residual_conv(entered) + entered)


class FixedNorm(nn.BatchNorm2d):
    """Batch norm that never looks at the batch: mean and variance are those of the file, 0 and 1 without one.

    In training too (ours): then chunks of views, recomputation and the number of processes do not change what is computed.

    Args:
        width: channels.
    """

    def __init__(self, width: int) -> None:
        super().__init__(width)
        self.eval()

    def train(self, mode: bool = True) -> FixedNorm:
        """Stay in evaluation."""
        return super().train(False)
