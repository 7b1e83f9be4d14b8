"""The dense decoder (DPT) under the depth, point and instance-feature heads."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from jrs.errors import ConfigError
from jrs.structures import FeatureTaps

POSITION_BASE = 100.0
POSITION_SCALE = 0.1
CPU_VALUES = 2 ** 25                           # of decoded maps at a time: 128 MiB, one view of 518 x 392 at F / 2 = 128


class DenseDecoder(nn.Module):
    """Fuses four taps of a backbone into one map per view at image resolution (vggt.md section 8).

    Base class of the dense heads: a head calls `decode` with the function that finishes a chunk of maps. Views are
    independent, so they pass in chunks and the wide full-resolution map never exists for all views at once.

    Args:
        dim_in: width of the taps.
        features: width F of the fusion; the resulting map has F / 2 channels.
        out_channels: widths of the four branches, finest first, each a multiple of 4.
        views_per_chunk: views that are decoded at a time, at most.
        activation_checkpointing: in training, recompute every chunk in the backward pass.

    Raises:
        ConfigError: not four branches, or a width that positions cannot be added to.
    """

    def __init__(self, dim_in: int, features: int = 256, out_channels: Sequence[int] = (256, 512, 1024, 1024),
                 views_per_chunk: int = 8, activation_checkpointing: bool = False) -> None:
        super().__init__()
        if len(out_channels) != 4 or any(width % 4 for width in (*out_channels, features // 2)):
            raise ConfigError(f'out_channels must be four multiples of 4 and features a multiple of 8, got '
                              f'out_channels={tuple(out_channels)}, features={features}.')
        finest, fine, _, coarse = out_channels
        self.views_per_chunk = views_per_chunk
        self.activation_checkpointing = activation_checkpointing
        self.norm = nn.LayerNorm(dim_in)
        self.projects = nn.ModuleList(nn.Conv2d(dim_in, width, 1) for width in out_channels)
        self.resize_layers = nn.ModuleList([
            nn.ConvTranspose2d(finest, finest, 4, stride=4),
            nn.ConvTranspose2d(fine, fine, 2, stride=2),
            nn.Identity(),
            nn.Conv2d(coarse, coarse, 3, stride=2, padding=1),
        ])
        self.scratch = _Scratch(features, out_channels)

    def decode(self, features: FeatureTaps, finish: Callable[[Tensor], Tensor]) -> Tensor:
        """Return `finish` of the decoded maps of all views, (B, V, ...), in float32 whatever the caller's autocast.

        Args:
            features: four taps (B, V, P, dim_in).
            finish: maps (n, F / 2, H, W) of n views -> (n, ...).
        """
        num_scenes, num_views = features.taps[0].shape[:2]
        taps = [tap.flatten(0, 1) for tap in features.taps]                     # (B*V, P, dim_in) each
        finished = []
        with torch.autocast(taps[0].device.type, enabled=False):
            step = self.views_at_a_time(taps[0].device, features.image_size)
            for start in range(0, num_scenes * num_views, step):
                chunk = [tap[start:start + step] for tap in taps]
                finished.append(self._finish_chunk(chunk, features, finish))
        return torch.cat(finished).unflatten(0, (num_scenes, num_views))        # (B, V, ...)

    def views_at_a_time(self, device: torch.device, image_size: tuple[int, int]) -> int:
        """Return `views_per_chunk`, or fewer on a CPU, which gains nothing from more values than `CPU_VALUES`."""
        values = self.scratch.output_conv1.out_channels * image_size[0] * image_size[1]         # of one view's map
        return min(self.views_per_chunk, max(1, CPU_VALUES // values)) if device.type == 'cpu' else self.views_per_chunk

    def _finish_chunk(self, taps: list[Tensor], features: FeatureTaps, finish: Callable[[Tensor], Tensor]) -> Tensor:
        def run(*taps: Tensor) -> Tensor:
            return finish(self._decode_chunk(taps, features))
        if self.activation_checkpointing and self.training and torch.is_grad_enabled():
            return checkpoint(run, *taps, use_reentrant=False)
        return run(*taps)

    def _decode_chunk(self, taps: Sequence[Tensor], features: FeatureTaps) -> Tensor:
        """Return the map (n, F / 2, H, W) for the taps (n, P, dim_in) of n views."""
        size = features.image_size
        branches = []
        for tap, project, resize in zip(taps, self.projects, self.resize_layers, strict=True):
            patches = self.norm(tap[:, features.patch_index].float())           # (n, h_p * w_p, dim_in)
            grid = patches.transpose(1, 2).unflatten(2, features.patch_grid)    # (n, dim_in, h_p, w_p)
            branches.append(resize(add_positions(project(grid), size)))
        fused = self.scratch.output_conv1(self.scratch.fuse(branches))          # (n, F/2, 8 h_p, 8 w_p)
        return add_positions(resize_map(fused, size), size, overwrite=True)     # (n, F/2, H, W)


class _Scratch(nn.Module):
    """The fusion part of the decoder; its name in checkpoints is `scratch`."""

    def __init__(self, features: int, out_channels: Sequence[int]) -> None:
        super().__init__()
        for level, width in enumerate(out_channels, start=1):
            self.add_module(f'layer{level}_rn', nn.Conv2d(width, features, 3, padding=1, bias=False))
        self.refinenet1 = FusionBlock(features)
        self.refinenet2 = FusionBlock(features)
        self.refinenet3 = FusionBlock(features)
        self.refinenet4 = FusionBlock(features, has_skip=False)
        self.output_conv1 = nn.Conv2d(features, features // 2, 3, padding=1)

    def fuse(self, branches: list[Tensor]) -> Tensor:
        """Return the fused map (n, F, 2 h_1, 2 w_1) of four branches (n, C_j, h_j, w_j), finest first."""
        layers = [self.layer1_rn, self.layer2_rn, self.layer3_rn, self.layer4_rn]
        level1, level2, level3, level4 = (layer(branch) for layer, branch in zip(layers, branches, strict=True))
        fused = self.refinenet4(level4, None, size=level3.shape[-2:])
        fused = self.refinenet3(fused, level3, size=level2.shape[-2:])
        fused = self.refinenet2(fused, level2, size=level1.shape[-2:])
        return self.refinenet1(fused, level1, size=(2 * level1.shape[-2], 2 * level1.shape[-1]))


class FusionBlock(nn.Module):
    """Adds a finer level to the fused map, refines, enlarges: Out(Up(RCU(fused + RCU(skip)))).

    Args:
        features: width F.
        has_skip: False for the coarsest level, which has nothing to add.
    """

    def __init__(self, features: int, has_skip: bool = True) -> None:
        super().__init__()
        self.out_conv = nn.Conv2d(features, features, 1)
        if has_skip:
            self.resConfUnit1 = ResidualConvUnit(features)
        self.resConfUnit2 = ResidualConvUnit(features)

    def forward(self, fused: Tensor, skip: Tensor | None, size: tuple[int, int]) -> Tensor:
        """Return (n, F, *size) for `fused` and `skip` (n, F, h, w)."""
        if skip is not None:
            fused = fused + self.resConfUnit1(skip)
        return self.out_conv(resize_map(self.resConfUnit2(fused), size))


class ResidualConvUnit(nn.Module):
    """conv2(ReLU(conv1(ReLU(x)))) + ReLU(x): what is added back is rectified too (vggt.md section 8, the RCU note)."""

    def __init__(self, features: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(features, features, 3, padding=1)
        self.conv2 = nn.Conv2d(features, features, 3, padding=1)

    def forward(self, maps: Tensor) -> Tensor:
        """Return (n, F, h, w) for `maps` (n, F, h, w)."""
        rectified = F.relu(maps)
        return self.conv2(F.relu(self.conv1(rectified))) + rectified


def output_convolutions(features: int, out_channels: int) -> nn.Sequential:
    """Return the last layers of a geometry head: maps (n, features / 2, H, W) -> (n, out_channels, H, W)."""
    return nn.Sequential(nn.Conv2d(features // 2, 32, 3, padding=1), nn.ReLU(), nn.Conv2d(32, out_channels, 1))


def resize_map(maps: Tensor, size: tuple[int, int]) -> Tensor:
    """Return `maps` (n, C, h, w) resized to (n, C, *size), bilinear with corners aligned."""
    return F.interpolate(maps, size=tuple(size), mode='bilinear', align_corners=True)


def add_positions(maps: Tensor, image_size: tuple[int, int], overwrite: bool = False) -> Tensor:
    """Return `maps` (n, C, h, w) plus sines and cosines of where each pixel stands in the image.

    The frame of the positions has the aspect ratio of the image (H, W) and a diagonal from -1 to 1
    (vggt.md section 8, "Head positional map"). C is a multiple of 4. With `overwrite` the result may be in `maps`.
    """
    channels, height, width = maps.shape[1:]
    diagonal = (image_size[0] ** 2 + image_size[1] ** 2) ** 0.5
    across = _waves(width, image_size[1] / diagonal, channels).to(maps)[:, None, :]         # (C/2, 1, w)
    down = _waves(height, image_size[0] / diagonal, channels).to(maps)[:, :, None]          # (C/2, h, 1)
    if torch.is_grad_enabled():
        return maps + torch.cat([across.expand(-1, height, -1), down.expand(-1, -1, width)])    # (C, h, w)
    maps = maps if overwrite else maps.clone()
    maps[:, :channels // 2] += across
    maps[:, channels // 2:] += down
    return maps


def _waves(count: int, extent: float, channels: int) -> Tensor:
    """Return sines, then cosines (channels / 2, count) of `count` pixel centres between -extent and extent.

    Computed on the CPU, because not every accelerator has float64.
    """
    limit = extent * (count - 1) / count
    places = torch.linspace(-limit, limit, count, dtype=torch.float32, device='cpu').double()
    quarter = channels // 4
    omega = POSITION_BASE ** -(torch.arange(quarter, dtype=torch.float64, device='cpu') / quarter)
    angles = omega[:, None] * places                                                        # (channels / 4, count)
    return (POSITION_SCALE * torch.cat([angles.sin(), angles.cos()])).float()
