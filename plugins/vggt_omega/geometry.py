"""VGGT-Omega's own heads: cameras from all special tokens, depth at a quarter of the size, and words, optionally."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from jrs.errors import ConfigError
from jrs.heads.camera import ENCODING_SIZE
from jrs.layers.block import Block
from jrs.layers.dpt import DenseFusion, HeadMemory, add_positions
from jrs.registry import HEADS, check_keys
from jrs.structures import FeatureTaps, Predictions

LEAST_FIELD_OF_VIEW = 0.01                     # radians
USUAL_FIELD_OF_VIEW = 1.0                      # where fields of view start, ours: below the least one they have no gradient
FINER = 4                                      # positions of the dense head along the side of a patch
ALIVE_MAPS = 8.2                               # of the finest, while a chunk is decoded; fitted to measurements, as the next
SAVED_MAPS = 12.4                              # of the finest, that the backward pass of a view needs
SAVED_PIXELS = 30.0                            # values per pixel beside them, those of losses on depth included


def trunk_of(dim: int, depth: int, num_heads: int, init_values: float) -> nn.ModuleList:
    """Return blocks over special tokens of a whole scene: no positions, no q/k norm."""
    return nn.ModuleList(Block(dim, num_heads, init_values=init_values, key_bias=False) for _ in range(depth))


class OmegaCameraHead(nn.Module):
    """Reads the cameras of all views in one pass off all their special tokens (backbones.md section 2).

    Args:
        dim_in: width of the tokens.
        trunk_depth: number of blocks.
        num_heads: their attention heads.
        init_values: their initial LayerScale.
    """

    def __init__(self, dim_in: int, trunk_depth: int, num_heads: int, init_values: float) -> None:
        super().__init__()
        self.token_norm = nn.LayerNorm(dim_in)
        self.trunk = trunk_of(dim_in, trunk_depth, num_heads, init_values)
        self.trunk_norm = nn.LayerNorm(dim_in)
        self.camera_branch = nn.Sequential(nn.Linear(dim_in, dim_in // 2), nn.GELU(), nn.Linear(dim_in // 2, ENCODING_SIZE))
        nn.init.constant_(self.camera_branch[2].bias[7:], USUAL_FIELD_OF_VIEW)

    def forward(self, special: Tensor) -> Tensor:
        """Return pose encodings (B, V, 9) of `cam_from_world` for special tokens (B, V, K, dim_in), the camera's first."""
        tokens = self.token_norm(special).flatten(1, 2)                         # (B, V * K, dim_in)
        for block in self.trunk:
            tokens = block(tokens)
        cameras = tokens.unflatten(1, special.shape[1:3])[:, :, 0]              # (B, V, dim_in)
        raw = self.camera_branch(self.trunk_norm(cameras))                      # (B, V, 9)
        return torch.cat([raw[..., :7], raw[..., 7:].relu() + LEAST_FIELD_OF_VIEW], dim=-1)


class OmegaDenseHead(DenseFusion):
    """Depth and confidence from four taps: the shared fusion, then a 1 x 1 convolution and a pixel shuffle.

    Args:
        dim_in, features, out_channels, views_per_chunk, activation_checkpointing: as of `jrs.layers.dpt.DenseFusion`.
        patch_size: side of a patch in pixels, a multiple of 4.
    """

    def __init__(self, dim_in: int, features: int, out_channels: Sequence[int], patch_size: int, views_per_chunk: int,
                 activation_checkpointing: bool) -> None:
        if patch_size % FINER:
            raise ConfigError(f'VGGTOmegaGeometry makes {FINER} x {FINER} positions of a patch, whose side must be a '
                              f'multiple of {FINER}; patch_size is {patch_size}.')
        super().__init__(dim_in, features, out_channels, views_per_chunk, activation_checkpointing, skip='plain',
                         last_doubles=False)
        self.zoom = patch_size // FINER
        self.proj = nn.Conv2d(features, self.zoom ** 2, 1)
        self.proj_conf = nn.Conv2d(features, self.zoom ** 2, 1)

    def forward(self, features: FeatureTaps) -> tuple[Tensor, Tensor]:
        """Return z-depth > 0 and confidence > 1, (B, V, H, W) each, from four taps (B, V, P, dim_in)."""
        def finish(branches: list[Tensor]) -> Tensor:
            maps = self.scratch.fuse(branches)                                  # (n, F, 4 h_p, 4 w_p)
            maps = add_positions(maps, features.image_size, overwrite=True)
            logits = [F.pixel_shuffle(layer(maps), self.zoom) for layer in (self.proj, self.proj_conf)]
            return torch.cat(logits, dim=1)                                     # (n, 2, H, W)
        depth, confidence = self.read(features, finish).unbind(2)               # (B, V, H, W) each
        return depth.exp(), 1 + confidence.exp()

    def map_width(self) -> int:
        """Return the channels of the finest map, as if it were as large as the image."""
        return max(1, self.scratch.features // self.zoom ** 2)

    def memory(self, views: int, size: tuple[int, int], device: torch.device) -> HeadMemory:
        """Return what decoding `views` views of (H, W) = `size` needs."""
        pixels, at_a_time = 4.0 * size[0] * size[1], min(views, self.views_at_a_time(device, size, views))
        finest = self.scratch.features / self.zoom ** 2 * pixels
        return HeadMemory(ALIVE_MAPS * at_a_time * finest, SAVED_MAPS * finest + SAVED_PIXELS * pixels,
                          at_a_time if self.activation_checkpointing else None)


class TextAlignmentHead(nn.Module):
    """Reads one vector per scene that lies in the space of a text encoder (256 model; backbones.md section 2).

    No loss here reads it: it keeps the weights that it has unless `frozen` is False.

    Args:
        dim_in: width of the tokens.
        depth: number of blocks.
        num_heads: their attention heads.
        init_values: their initial LayerScale.
        frozen: whether its parameters do not learn.
    """

    def __init__(self, dim_in: int, depth: int = 4, num_heads: int = 16, init_values: float = 1e-5,
                 frozen: bool = True) -> None:
        super().__init__()
        self.language_token = nn.Parameter(0.02 * torch.randn(1, 1, dim_in))
        self.token_norm = nn.LayerNorm(dim_in)
        self.readout_blocks = trunk_of(dim_in, depth, num_heads, init_values)
        self.language_token_norm = nn.LayerNorm(dim_in)
        self.embedding_projector = nn.Sequential(nn.Linear(dim_in, dim_in // 2), nn.GELU(), nn.LayerNorm(dim_in // 2),
                                                 nn.Linear(dim_in // 2, dim_in))
        self.requires_grad_(not frozen)

    def forward(self, special: Tensor) -> tuple[Tensor, Tensor]:
        """Return embeddings of length 1 and what they come from, (B, dim_in) each, of special tokens (B, V, K, dim_in)."""
        language = self.language_token.expand(len(special), -1, -1)             # not normalised
        tokens = torch.cat([language, self.token_norm(special).flatten(1, 2)], dim=1)       # (B, 1 + V * K, dim_in)
        for block in self.readout_blocks:
            tokens = block(tokens)
        token = self.language_token_norm(tokens[:, 0])                          # (B, dim_in)
        return F.normalize(self.embedding_projector(token), dim=-1), token


@HEADS.register_module()
class VGGTOmegaGeometry(nn.Module):
    """Cameras, depth and confidence as VGGT-Omega predicts them, float32; the defaults are those of the released models.

    A part of `model.geometry_head`. The world is the first camera, only roughly. With `text` there are two extras:
    `text_alignment_embedding` and `text_alignment_token`, (B, dim_in) each.

    Args:
        dim_in: width of taps and special tokens, the backbone's `feature_dim`.
        patch_size: side of a patch in pixels, the backbone's; a multiple of 4.
        trunk_depth, num_heads, init_values: of the camera head: blocks, their attention heads, initial LayerScale.
        features, out_channels, views_per_chunk, activation_checkpointing: of the dense head, as of
            `jrs.layers.dpt.DenseFusion`.
        text: `depth`, `num_heads`, `init_values` and `frozen` of a `TextAlignmentHead`, ``dict()`` as in the released 256
            model; None = none.
    """

    example = dict(trunk_depth=1, num_heads=2, features=16, out_channels=(8, 8, 16, 16))

    def __init__(self, dim_in: int, patch_size: int, trunk_depth: int = 4, num_heads: int = 16, init_values: float = 1e-5,
                 features: int = 256, out_channels: Sequence[int] = (256, 512, 1024, 1024), views_per_chunk: int = 8,
                 activation_checkpointing: bool = False, text: dict | None = None) -> None:
        super().__init__()
        self.camera_head = OmegaCameraHead(dim_in, trunk_depth, num_heads, init_values)
        self.dense_head = OmegaDenseHead(dim_in, features, out_channels, patch_size, views_per_chunk,
                                         activation_checkpointing)
        self.text_alignment_head = None
        if text is not None:
            check_keys(TextAlignmentHead, text, 'model.geometry_head.text')
            self.text_alignment_head = TextAlignmentHead(dim_in, **text)

    def memory(self, views: int, size: tuple[int, int], device: torch.device) -> HeadMemory:
        """Return what the dense head needs for `views` views of (H, W) = `size`; special tokens are few beside its maps."""
        return self.dense_head.memory(views, size, device)

    def forward(self, features: FeatureTaps) -> Predictions:
        """Return one stage of pose encodings (B, V, 9), z-depth > 0 and confidence > 1, (B, V, H, W) each.

        Reads four taps (B, V, P, dim_in) and the special tokens (B, V, K, dim_in).
        """
        with torch.autocast(features.taps[-1].device.type, enabled=False):
            special = features.special.float()
            extras = {}
            if self.text_alignment_head is not None:
                names = ('text_alignment_embedding', 'text_alignment_token')
                extras = dict(zip(names, self.text_alignment_head(special), strict=True))
            return Predictions([self.camera_head(special)], *self.dense_head(features), extras=extras)
