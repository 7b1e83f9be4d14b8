"""From patches of several encoders to what a mask decoder reads and to mask features (baselines.md section 4.5).

Version 1 brings patches to half the size of the picture by linear layers and pixel shuffling; version 2 by letting pixels,
known by colour and place, read the patches. Both in float32.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jrs_plugins.panst3r.encoder import DinoBranch
from jrs_plugins.panst3r.guidance import GuidedUpsampler, PatchMixer, colour_range
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from jrs.errors import ConfigError
from jrs.layers.block import Mlp
from jrs.layers.dpt import HeadMemory
from jrs.layers.whole import Whole
from jrs.registry import HEADS
from jrs.structures import IMAGES, FeatureTaps

MEMORY = 'mask_memory'                         # the map that a mask decoder reads, on the patch grid
EXPANSION = 4                                  # hidden width over the input, of the layers that are shuffled


class JoinedPatches(nn.Module):
    """Patches of some taps, and of DINOv2, side by side; a subclass makes two maps of them. Base class.

    It leaves the first map, 'mask_memory' (B, V, M, h_p, w_p), for `MaskDecoder(memory='mask_memory')`, and returns the
    other one, the instance features.

    Args:
        dim_in: width of the taps, where `tap_dims` is None.
        tap_dims: width of each tap that the backbone leaves.
        taps: which of them are joined, by their places, in this order; None = all.
        dino: arguments of `DinoBranch`, whose patches stand behind those of the taps; None = none.
        views_per_chunk: views that are read at a time, at most.
        activation_checkpointing: in training, recompute every chunk in the backward pass.

    Raises:
        ConfigError: a tap that is not there.
    """

    leaves = (MEMORY,)
    official_weights = ('Put the released PanSt3R there: panst3r_v1_512_5ds.pth or panst3r_v2_512_5ds.pth (PanSt3R '
                        'Non-Commercial License of Naver), linked from https://github.com/naver/panst3r. Or name your copy: '
                        '--cfg-options weights=FILE.')

    def __init__(self, dim_in: int, tap_dims: Sequence[int] | None = None, taps: Sequence[int] | None = None,
                 dino: dict | None = None, views_per_chunk: int = 4, activation_checkpointing: bool = False) -> None:
        super().__init__()
        widths = tuple(tap_dims or [dim_in] * 4)
        self.taps = tuple(range(len(widths)) if taps is None else taps)
        wrong = [place for place in self.taps if not -len(widths) <= place < len(widths)]
        if wrong or not self.taps:
            raise ConfigError(f'{type(self).__name__}.taps are places of taps of this backbone, 0 .. {len(widths) - 1}, at '
                              f'least one, got {self.taps}.')
        self.dino = None if dino is None else DinoBranch(**dino)
        self.joined_dim = sum(widths[place] for place in self.taps) + (0 if dino is None else self.dino.embed_dim)
        self.views_per_chunk = views_per_chunk
        self.activation_checkpointing = activation_checkpointing
        self.reads = (IMAGES,) if self.dino is not None or self.sees_images else ()

    sees_images = False

    def memory(self, views: int, size: tuple[int, int], device: torch.device) -> HeadMemory:
        """Return what reading `views` views of (H, W) = `size` needs; DINOv2 is small beside it."""
        saved, alive = (4.0 * values for values in self.values(size))
        at_a_time = min(views, self.views_per_chunk)
        return HeadMemory(at_a_time * alive, saved, at_a_time if self.activation_checkpointing else None)

    def values(self, size: tuple[int, int]) -> tuple[float, float]:
        """Return the values that the backward pass of a view of (H, W) needs, and those alive without one; measured."""
        raise NotImplementedError

    def forward(self, features: FeatureTaps) -> Tensor:
        """Return instance features (B, V, D, h, w) of taps (B, V, P, tap_dims[j]); `mask_memory` is left."""
        memory, maps = self.read(features)
        features.leave(MEMORY, memory)
        return maps

    def read(self, features: FeatureTaps) -> tuple[Tensor, Tensor]:
        """Return the map for the decoder (B, V, M, h_p, w_p) and instance features (B, V, D, h, w)."""
        shape = features.taps[self.taps[0]].shape[:2]
        given = [features.taps[place].flatten(0, 1) for place in self.taps]     # (B*V, P, dim) each
        if self.reads:
            signed = (2 * features.maps[IMAGES].flatten(0, 1) - 1).float()     # (B*V, 3, H, W) in [-1, 1]
            given += [signed, *self.beside(signed)]
        whole = Whole(shape.numel())
        with torch.autocast(given[0].device.type, enabled=False):
            for parts in zip(*(x.split(self.views_per_chunk) for x in given), strict=True):
                whole.add(self._chunk(parts, features))
        memory, maps = (part.unflatten(0, shape) for part in whole.parts())
        return memory, maps

    def beside(self, images: Tensor) -> list[Tensor]:
        """Return what `upsample` takes beside the `images` (B*V, 3, H, W), (B*V, ...) each."""
        return []

    def upsample(self, patches: Tensor, grid: tuple[int, int], *images: Tensor) -> tuple[Tensor, Tensor]:
        """Return maps (n, M, h_p, w_p) and (n, D, h, w) of the `patches` (n, h_p * w_p, `joined_dim`) of n views.

        `images` (n, 3, H, W) in [-1, 1], and what `beside` gave, are there where the part looks at them.
        """
        raise NotImplementedError

    def _chunk(self, parts: Sequence[Tensor], features: FeatureTaps) -> tuple[Tensor, Tensor]:
        patches = [tap[:, features.patch_index].float() for tap in parts[:len(self.taps)]]
        beside = parts[len(self.taps):]
        if self.dino is not None:
            patches.append(self.dino(beside[0], features.patch_grid))
        joined = torch.cat(patches, dim=-1)                                     # (n, h_p * w_p, joined_dim)
        if self.activation_checkpointing and self.training and torch.is_grad_enabled():
            return checkpoint(self.upsample, joined, features.patch_grid, *beside, use_reentrant=False)
        return self.upsample(joined, features.patch_grid, *beside)


@HEADS.register_module()
class PanSt3RFeatures(JoinedPatches):
    """PanSt3R's features, version 1: three times, pixels become four by two linear layers (baselines.md section 4.5).

    Masks have 8 h_p x 8 w_p pixels: half the size of the image where patches have 16.

    Args:
        memory_dim: M, channels of `mask_memory`.
        widths: channels at twice, four and eight times the patch grid; the last one is D.
        patch_size: side of a patch in pixels, the backbone's; for estimates of memory.
        options: of `JoinedPatches`.
    """

    down_ratio = 2

    def __init__(self, dim_in: int, memory_dim: int = 768, widths: Sequence[int] = (512, 384, 256),
                 tap_dims: Sequence[int] | None = None, taps: Sequence[int] | None = None, dino: dict | None = None,
                 views_per_chunk: int = 4, activation_checkpointing: bool = False, patch_size: int = 16) -> None:
        super().__init__(dim_in, tap_dims, taps, dino, views_per_chunk, activation_checkpointing)
        if len(widths) != 3:
            raise ConfigError(f'PanSt3RFeatures.widths are three, got {tuple(widths)}.')
        self.widths, self.embedding_dim, self.memory_dim, self.patch_size = tuple(widths), widths[-1], memory_dim, patch_size
        self.proj_16 = Mlp(self.joined_dim, EXPANSION * self.joined_dim, memory_dim)
        self.proj_8, self.proj_4, self.proj_2 = (Mlp(before, EXPANSION * before, 4 * after) for before, after in zip(
            (self.joined_dim, *widths), widths, strict=False))

    def values(self, size: tuple[int, int]) -> tuple[float, float]:
        """Return the values that the backward pass of a view of (H, W) needs, and those alive without one; measured."""
        patches, joined = size[0] * size[1] / self.patch_size ** 2, self.joined_dim
        second, third, last = self.widths
        alive = max(5 * joined, 20 * second, 80 * third, 192 * last) + 2 * joined + self.memory_dim
        return patches * (17 * joined + 36 * second + 144 * third), patches * alive

    def upsample(self, patches: Tensor, grid: tuple[int, int], *images: Tensor) -> tuple[Tensor, Tensor]:
        """Return maps (n, M, h_p, w_p) and (n, D, 8 h_p, 8 w_p) of the `patches` (n, h_p * w_p, `joined_dim`)."""
        maps = patches.unflatten(1, grid)                                       # (n, h, w, C), channels last
        memory = self.proj_16(maps)
        for layer in (self.proj_8, self.proj_4, self.proj_2):
            maps = F.pixel_shuffle(layer(maps).movedim(-1, 1), 2).movedim(1, -1)
        return memory.movedim(-1, 1), maps.movedim(-1, 1)


@HEADS.register_module()
class PanSt3RGuidedFeatures(JoinedPatches):
    """PanSt3R's features, version 2: pixels at half size read the patches of their view (baselines.md section 4.5).

    Args:
        width: of the mixed patches, and M of `mask_memory`.
        num_heads, layers: of the mixer, which looks at one view at a time.
        upsampler: arguments of `GuidedUpsampler` beside the width of its keys: `dim` (D), `num_heads`, `layers`, ...
        joint_range: colours are scaled by their least and largest over all views of a batch, as upstream trains, instead of
            those of each picture, as its demo and we do.
        options: of `JoinedPatches`.
    """

    sees_images = True
    down_ratio = 2
    example = dict(width=16, num_heads=2, layers=1, upsampler=dict(dim=16, num_heads=2, layers=1))

    def __init__(self, dim_in: int, width: int = 768, num_heads: int = 12, layers: int = 3, upsampler: dict | None = None,
                 joint_range: bool = False, tap_dims: Sequence[int] | None = None, taps: Sequence[int] | None = None,
                 dino: dict | None = None, views_per_chunk: int = 1, activation_checkpointing: bool = False) -> None:
        super().__init__(dim_in, tap_dims, taps, dino, views_per_chunk, activation_checkpointing)
        self.input_mixer = PatchMixer(self.joined_dim, width, num_heads, layers)
        self.upscaler = GuidedUpsampler(width, **upsampler or {})
        self.embedding_dim, self.joint_range = self.upscaler.dim, joint_range

    def values(self, size: tuple[int, int]) -> tuple[float, float]:
        """Return the values that the backward pass of a view of (H, W) needs, and those alive without one; measured."""
        pixels, described, dim = size[0] * size[1] / 4, self.upscaler.fourier_channels, self.embedding_dim
        blocks = len(self.upscaler.ca_transformer_blocks)
        return pixels * (3 * described + (6 + 7 * blocks) * dim), pixels * max(3 * described + 2 * dim, 6 * dim)

    def beside(self, images: Tensor) -> list[Tensor]:
        """Return the least and the largest of each colour that the pictures at half size are scaled by, (B*V, 2, 3)."""
        return [colour_range(images, self.joint_range)]

    def upsample(self, patches: Tensor, grid: tuple[int, int], *images: Tensor) -> tuple[Tensor, Tensor]:
        """Return maps (n, M, h_p, w_p) and (n, D, H / 2, W / 2) of the `patches` (n, h_p * w_p, `joined_dim`).

        `images` are pictures (n, 3, H, W) in [-1, 1] and their ranges of colours (n, 2, 3).
        """
        mixed = self.input_mixer(patches, grid)                                 # (n, h_p * w_p, M)
        return self.upscaler(mixed, grid, *images)
