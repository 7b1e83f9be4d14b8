"""The dense decoder (DPT) under the depth, point and instance-feature heads."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from jrs.errors import ConfigError
from jrs.layers.whole import Whole
from jrs.structures import FeatureTaps

POSITION_BASE = 100.0
POSITION_SCALE = 0.1
DECODER_MAPS = 1.35                            # full-size maps alive while a chunk is finished
MANY_VIEWS = 48                                # above which what stays of all views is most of what a device holds
CPU_VALUES = 2 ** 25                           # of decoded maps at a time: 128 MiB, one view of 518 x 392 at F / 2 = 128


@dataclass(frozen=True)
class HeadMemory:
    """Bytes that a head needs for images of one size; `jrs.engine.memory` asks for them.

    Attributes:
        chunk: alive at a time in inference, beside what stays.
        saved: what the backward pass of one view needs.
        recomputed_views: views whose `saved` is alive at a time, where it is computed again; None where all of it is kept.
        outputs: what stays of each view beside depth and confidence.
        kept: what the backward pass of one view needs beside `saved`, and is never computed again.
    """

    chunk: float = 0.0
    saved: float = 0.0
    recomputed_views: int | None = None
    outputs: float = 0.0
    kept: float = 0.0


def chunk_memory(needed: float, stays: float, views: int, at_once: int) -> float:
    """Return what is alive at a time beside what stays of all `views`, where chunks of `at_once` are put into a whole.

    Args:
        needed: of one view while its chunk is made, beside what stays of it.
        stays: of one view; what a further chunk leaves exists twice until it is copied (`jrs.layers.whole.Whole`).
    """
    if views <= at_once:
        return needed * views
    further = min(at_once, views - at_once)
    return max(needed * at_once - stays * (views - at_once), stays * at_once, (needed + stays) * further)


class DenseFusion(nn.Module):
    """Fuses four taps of a backbone into one map per view, (F, 8 h_p, 8 w_p) or half of that (vggt.md section 8).

    Base class of the dense heads. Its switches cover VGGT (the defaults), Depth Anything 3 (`skip='plain'`), VGGT-Omega
    (`skip='plain'`, `last_doubles=False`) and MapAnything (`skip='plain'`, `growth='double'`, without norm and positions). A
    head calls `read` with the function that finishes a chunk of branches, the first thing of which is
    `self.scratch.fuse(branches)`. Views are independent, so they pass in chunks.

    Args:
        dim_in: width of the taps.
        features: width F of the fusion.
        out_channels: widths of the four branches, finest first, each a multiple of 4 where positions are added.
        views_per_chunk: views that are decoded at a time, at most.
        activation_checkpointing: in training, recompute every chunk in the backward pass.
        norm: one LayerNorm (eps 1e-5) on the patches of all taps.
        positions: sines and cosines of the place in the image are added to the branches.
        skip: what a residual unit adds to its convolutions: 'rectified', ReLU(x), or 'plain', x.
        growth: a fused map becomes as large as the next finer level ('size'), or twice as large and is cut to that level.
        last_doubles: whether the finest fused map is twice as large as its level.

    Raises:
        ConfigError: not four branches, or a width that positions cannot be added to.
    """

    def __init__(self, dim_in: int, features: int = 256, out_channels: Sequence[int] = (256, 512, 1024, 1024),
                 views_per_chunk: int = 8, activation_checkpointing: bool = False, norm: bool = True,
                 positions: bool = True, skip: str = 'rectified', growth: str = 'size', last_doubles: bool = True) -> None:
        super().__init__()
        odd = positions and any(width % 4 for width in (*out_channels, features // 2))
        if len(out_channels) != 4 or odd:
            raise ConfigError(f'out_channels must be four multiples of 4 and features a multiple of 8, got '
                              f'out_channels={tuple(out_channels)}, features={features}.')
        for name, value, allowed in (('skip', skip, ('rectified', 'plain')), ('growth', growth, ('size', 'double'))):
            if value not in allowed:
                raise ConfigError(f'{name} is one of {", ".join(map(repr, allowed))}, got {value!r}.')
        finest, fine, _, coarse = out_channels
        self.views_per_chunk = views_per_chunk
        self.activation_checkpointing = activation_checkpointing
        self.positions = positions
        self.norm = nn.LayerNorm(dim_in) if norm else nn.Identity()
        self.projects = nn.ModuleList(nn.Conv2d(dim_in, width, 1) for width in out_channels)
        self.resize_layers = nn.ModuleList([
            nn.ConvTranspose2d(finest, finest, 4, stride=4),
            nn.ConvTranspose2d(fine, fine, 2, stride=2),
            nn.Identity(),
            nn.Conv2d(coarse, coarse, 3, stride=2, padding=1),
        ])
        self.scratch = Scratch(features, out_channels, skip, growth, last_doubles)

    def read(self, features: FeatureTaps, finish: Callable[..., Tensor | tuple[Tensor, ...]], beside: Sequence[Tensor] = ()
             ) -> Tensor | tuple[Tensor, ...]:
        """Return `finish` of the branches of all views, (B, V, ...), in float32 whatever the caller's autocast.

        Args:
            features: four taps (B, V, P, dim_in).
            finish: four branches (n, out_channels[j], h_j, w_j) of n views, finest first, and what is `beside` of the same
                views -> (n, ...), or several of these.
            beside: further maps (B, V, ...).

        Raises:
            ConfigError: another number of taps, or other widths.
        """
        if len(features.taps) != len(self.projects):
            raise ConfigError(f'{type(self).__name__} reads {len(self.projects)} taps, and this backbone leaves '
                              f'{len(features.taps)}: give its features() and feature_layers {len(self.projects)} (a layer '
                              'may stand there twice), or use a head that is made for it.')
        widths, left = [project.in_channels for project in self.projects], [tap.shape[-1] for tap in features.taps]
        if left != widths:
            raise ConfigError(f'{type(self).__name__} reads taps of width {", ".join(map(str, widths))}, and this backbone '
                              f'leaves {", ".join(map(str, left))}: name other feature_layers (-1, what enters the layers, '
                              'may have a width of its own), or use a head that is made for them.')
        num_scenes, num_views = features.taps[0].shape[:2]
        taps = [tap.flatten(0, 1) for tap in (*features.taps, *beside)]         # (B*V, P, dim_in) each, (B*V, ...)
        total, whole = num_scenes * num_views, Whole(num_scenes * num_views)
        with torch.autocast(taps[0].device.type, enabled=False):
            step = self.views_at_a_time(taps[0].device, features.image_size, total)
            for start in range(0, total, step):
                whole.add(self._finish_chunk([tap[start:start + step] for tap in taps], features, finish))
        several = [part.unflatten(0, (num_scenes, num_views)) for part in whole.parts()]    # (B, V, ...) each
        return tuple(several) if whole.is_tuple else several[0]

    def map_width(self) -> int:
        """Return the channels of the largest map, which decide how many views pass at a time on a CPU."""
        return self.scratch.features

    def views_at_a_time(self, device: torch.device, image_size: tuple[int, int], views: int = 1) -> int:
        """Return `views_per_chunk`, or fewer: on a CPU, which gains nothing from more values than `CPU_VALUES`; elsewhere of
        many `views`, whose results leave less room: one of 96 at a time."""
        if device.type == 'cpu':
            values = self.map_width() * image_size[0] * image_size[1]           # of one view's map
            return min(self.views_per_chunk, max(1, CPU_VALUES // values))
        return self.views_per_chunk if views <= MANY_VIEWS else min(self.views_per_chunk, max(1, views // 96))

    def _finish_chunk(self, taps: list[Tensor], features: FeatureTaps, finish: Callable) -> Tensor | tuple[Tensor, ...]:
        def run(*taps: Tensor) -> Tensor:
            count = len(features.taps)
            return finish(self._branches(taps[:count], features), *taps[count:])
        if self.activation_checkpointing and self.training and torch.is_grad_enabled():
            return checkpoint(run, *taps, use_reentrant=False)
        return run(*taps)

    def _branches(self, taps: Sequence[Tensor], features: FeatureTaps) -> list[Tensor]:
        """Return the four branches (n, out_channels[j], h_j, w_j) for the taps (n, P, dim_in) of n views."""
        branches = []
        for index, (tap, project, resize) in enumerate(zip(taps, self.projects, self.resize_layers, strict=True)):
            grid, patch_index = features.grid_of(index)
            tokens = tap if patch_index is None else tap[:, patch_index]
            patches = self.norm(tokens.float())                                 # (n, h_p * w_p, dim_in)
            maps = project(patches.transpose(1, 2).unflatten(2, grid))          # (n, out_channels[j], h_p, w_p)
            branches.append(resize(add_positions(maps, features.image_size) if self.positions else maps))
        return branches


class DenseDecoder(DenseFusion):
    """Fuses four taps of a backbone into one map per view at image resolution (vggt.md section 8).

    Base class of most dense heads: a head calls `decode` with the function that finishes a chunk of maps. The wide
    full-resolution map never exists for all views at once.

    Args:
        dim_in, features, out_channels, views_per_chunk, activation_checkpointing, norm, positions, skip, growth,
            last_doubles: as of `DenseFusion`; the resulting map has F / 2 channels, and positions once more.
    """

    def __init__(self, dim_in: int, features: int = 256, out_channels: Sequence[int] = (256, 512, 1024, 1024),
                 views_per_chunk: int = 8, activation_checkpointing: bool = False, norm: bool = True,
                 positions: bool = True, skip: str = 'rectified', growth: str = 'size', last_doubles: bool = True) -> None:
        super().__init__(dim_in, features, out_channels, views_per_chunk, activation_checkpointing, norm, positions, skip,
                         growth, last_doubles)
        self.scratch.output_conv1 = nn.Conv2d(features, features // 2, 3, padding=1)

    def decode(self, features: FeatureTaps, finish: Callable[[Tensor], Tensor]) -> Tensor:
        """Return `finish` of the decoded maps of all views, (B, V, ...), in float32 whatever the caller's autocast.

        Args:
            features: four taps (B, V, P, dim_in).
            finish: maps (n, F / 2, H, W) of n views -> (n, ...).
        """
        def run(branches: list[Tensor]) -> Tensor:
            handed_over = (branches.pop(0) for _ in self.projects)              # nothing is held longer than it is read
            fused = [self.scratch.fuse(handed_over)]
            return finish(self.enlarged(fused.pop(), features.image_size))
        return self.read(features, run)

    def enlarged(self, fused: Tensor, size: tuple[int, int]) -> Tensor:
        """Return the maps (n, F / 2, H, W) of fused maps (n, F, h, w), with positions where the head adds them."""
        fused = self.scratch.output_conv1(fused)                                # (n, F/2, h, w); what came in may go
        maps = resize_map(fused, size)                                          # (n, F/2, H, W)
        return add_positions(maps, size, overwrite=True) if self.positions else maps

    def map_width(self) -> int:
        """Return the channels of the full-size map."""
        return self.scratch.output_conv1.out_channels

    def memory(self, views: int, size: tuple[int, int], device: torch.device) -> HeadMemory:
        """Return what decoding `views` views of (H, W) = `size` needs."""
        pixels, at_a_time = 4.0 * size[0] * size[1], min(views, self.views_at_a_time(device, size, views))
        first = self.scratch.output_conv1
        last = getattr(self.scratch, 'output_conv2', None)                      # geometry heads end with this
        ending, alive = 2.6 * first.out_channels, DECODER_MAPS * first.out_channels
        if last is not None:                                                    # what it makes is rectified into a copy
            width = last[0].out_channels
            ending, alive = first.out_channels + 3 * width + 4, max(alive, first.out_channels + 2 * width)
        saved = (1.2 * first.in_channels + ending) * pixels
        return HeadMemory(at_a_time * alive * pixels, saved, at_a_time if self.activation_checkpointing else None)


class Scratch(nn.Module):
    """The fusion part of the decoder; its name in checkpoints is `scratch`. Arguments as of `DenseFusion`."""

    def __init__(self, features: int, out_channels: Sequence[int], skip: str, growth: str, last_doubles: bool) -> None:
        super().__init__()
        self.features, self.skip, self.growth, self.last_doubles = features, skip, growth, last_doubles
        for level, width in enumerate(out_channels, start=1):
            self.add_module(f'layer{level}_rn', nn.Conv2d(width, features, 3, padding=1, bias=False))
        self.add_chain()

    def add_chain(self, suffix: str = '') -> None:
        """Add the blocks `refinenet1` .. `refinenet4`, with `suffix` behind their names: a chain on the same levels."""
        for level in range(1, 5):
            self.add_module(f'refinenet{level}{suffix}', FusionBlock(self.features, has_skip=level < 4, skip=self.skip))

    def fuse(self, branches: Iterable[Tensor], suffix: str = '', stages: list[Tensor] | None = None) -> Tensor:
        """Return the fused map of four branches (n, C_j, h_j, w_j), finest first, by the chain `suffix`.

        It is (n, F, 2 h_1, 2 w_1), or (n, F, h_1, w_1) without `last_doubles`. `stages` gets the map after every block, of
        the sizes of the branches 3, 2, 1 and then this one.
        """
        layers = [self.layer1_rn, self.layer2_rn, self.layer3_rn, self.layer4_rn]
        levels = [layer(branch) for layer, branch in zip(layers, branches, strict=True)]
        fused = None
        for index in (3, 2, 1, 0):
            block, level = self.get_submodule(f'refinenet{index + 1}{suffix}'), levels.pop()
            height, width = level.shape[-2:]
            finer = levels[-1].shape[-2:] if levels else None
            doubles = self.last_doubles if finer is None else self.growth == 'double'
            size = (2 * height, 2 * width) if doubles else (height, width) if finer is None else finer
            fused = block(level, None, size=size) if fused is None else block(fused, level, size=size)
            if finer is not None and size != finer:
                fused = fused[..., :finer[0], :finer[1]]
            if stages is not None:
                stages.append(fused)
        return fused


class FusionBlock(nn.Module):
    """Adds a finer level to the fused map, refines, enlarges: Out(Up(RCU(fused + RCU(skip)))).

    Out is a convolution of single pixels and Up an average of pixels: Out before Up gives the same, from fewer pixels.

    Args:
        features: width F.
        has_skip: False for the coarsest level, which has nothing to add.
        skip: of the residual units, as of `DenseFusion`.
    """

    def __init__(self, features: int, has_skip: bool = True, skip: str = 'rectified') -> None:
        super().__init__()
        self.out_conv = nn.Conv2d(features, features, 1)
        if has_skip:
            self.resConfUnit1 = ResidualConvUnit(features, skip)
        self.resConfUnit2 = ResidualConvUnit(features, skip)

    def forward(self, fused: Tensor, skip: Tensor | None, size: tuple[int, int]) -> Tensor:
        """Return (n, F, *size) for `fused` and `skip` (n, F, h, w)."""
        if skip is not None:
            fused = fused + self.resConfUnit1(skip)
        return resize_map(self.out_conv(self.resConfUnit2(fused)), size)


class ResidualConvUnit(nn.Module):
    """conv2(ReLU(conv1(ReLU(x)))) plus ReLU(x) (VGGT: vggt.md section 8, the RCU note), or plus x (most others).

    Args:
        features: width F.
        skip: 'rectified' or 'plain'.
    """

    def __init__(self, features: int, skip: str = 'rectified') -> None:
        super().__init__()
        self.skip = skip
        self.conv1 = nn.Conv2d(features, features, 3, padding=1)
        self.conv2 = nn.Conv2d(features, features, 3, padding=1)

    def forward(self, maps: Tensor) -> Tensor:
        """Return (n, F, h, w) for `maps` (n, F, h, w)."""
        rectified = F.relu(maps)
        return self.conv2(F.relu(self.conv1(rectified))) + (rectified if self.skip == 'rectified' else maps)


def output_convolutions(features: int, out_channels: int) -> nn.Sequential:
    """Return the last layers of a geometry head: maps (n, features / 2, H, W) -> (n, out_channels, H, W)."""
    return nn.Sequential(nn.Conv2d(features // 2, 32, 3, padding=1), nn.ReLU(), nn.Conv2d(32, out_channels, 1))


def resize_map(maps: Tensor, size: tuple[int, int]) -> Tensor:
    """Return `maps` (n, C, h, w) resized to (n, C, *size), bilinear with corners aligned."""
    return F.interpolate(maps, size=tuple(size), mode='bilinear', align_corners=True)


def resize_through(maps: Tensor, between: tuple[int, int], size: tuple[int, int]) -> Tensor:
    """Return ``resize_map(resize_map(maps, between), size)`` of `maps` (n, C, h, w), (n, C, *size), without the map between.

    Both are linear along each axis, and so is what they do together: two products of matrices.
    """
    kind = maps.device, maps.dtype, getattr(maps, 'fake_mode', None)
    rows, columns = (_resizing(*sides, *kind) for sides in zip(maps.shape[-2:], between, size, strict=True))
    lines = (maps @ columns.T).flatten(0, 1)                                                # (n * C, h, w')
    return torch.bmm(rows.expand(len(lines), -1, -1), lines).unflatten(0, maps.shape[:2])   # (n, C, h', w')


@lru_cache(maxsize=512)
@torch.inference_mode(False)                   # the backward pass of a later call reads it
def _resizing(before: int, between: int, after: int, device: torch.device, dtype: torch.dtype, fake_mode: object) -> Tensor:
    """Return the matrix (after, before) that resizes lines of `before` pixels to `between`, then to `after`, for good."""
    lines = torch.eye(before, dtype=dtype, device='cpu')[None]                              # (1, before, before)
    for length in (between, after):
        lines = F.interpolate(lines, length, mode='linear', align_corners=True)
    return lines[0].T.contiguous().to(device)


def add_positions(maps: Tensor, image_size: tuple[int, int], overwrite: bool = False,
                  between: tuple[int, int] | None = None) -> Tensor:
    """Return `maps` (n, C, h, w) plus sines and cosines of where each pixel stands in the image.

    The frame of the positions has the aspect ratio of the image (H, W) and a diagonal from -1 to 1
    (vggt.md section 8, "Head positional map"). C is a multiple of 4. With `overwrite` the result may be in `maps`. Those of
    maps of the size `between` (h', w') that were resized to (h, w) are added where it is given.
    """
    channels, height, width = maps.shape[1:]
    made = (height, width) if between is None else between
    diagonal = (image_size[0] ** 2 + image_size[1] ** 2) ** 0.5
    kind = maps.device, maps.dtype, getattr(maps, 'fake_mode', None)
    across = _waves(made[1], width, image_size[1] / diagonal, channels, *kind)[:, None, :]  # (C/2, 1, w)
    down = _waves(made[0], height, image_size[0] / diagonal, channels, *kind)[:, :, None]   # (C/2, h, 1)
    if torch.is_grad_enabled():
        return maps + torch.cat([across.expand(-1, height, -1), down.expand(-1, -1, width)])    # (C, h, w)
    maps = maps if overwrite else maps.clone()
    maps[:, :channels // 2] += across
    maps[:, channels // 2:] += down
    return maps


@lru_cache(maxsize=512)
def _waves(count: int, size: int, extent: float, channels: int, device: torch.device, dtype: torch.dtype,
           fake_mode: object) -> Tensor:
    """Return sines, then cosines (channels / 2, size) of `count` pixel centres from -extent to extent, resized to `size`.

    Computed on the CPU, because not every accelerator has float64, and kept: a copy to the device would wait for all that
    it still has to do, at every chunk of views. Nobody may write into it. What is made while torch only traces, as
    `torch.export` does, has no values: it is kept for that `fake_mode` alone.
    """
    limit = extent * (count - 1) / count
    places = torch.linspace(-limit, limit, count, dtype=torch.float32, device='cpu').double()
    quarter = channels // 4
    omega = POSITION_BASE ** -(torch.arange(quarter, dtype=torch.float64, device='cpu') / quarter)
    angles = omega[:, None] * places                                                        # (channels / 4, count)
    waves = POSITION_SCALE * torch.cat([angles.sin(), angles.cos()])                        # (channels / 2, count)
    if size != count:
        waves = F.interpolate(waves[None], size, mode='linear', align_corners=True)[0]
    return waves.float().to(device, dtype)
