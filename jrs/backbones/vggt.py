"""VGGT: attention inside each view and over all views in turn, of any size."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from jrs.errors import ConfigError, did_you_mean
from jrs.layers.block import Block
from jrs.layers.rope import GridRotation, patch_positions
from jrs.layers.vit import build_patch_embed
from jrs.registry import BACKBONES
from jrs.structures import FeatureTaps, LayerState

IMAGE_MEAN = (0.485, 0.456, 0.406)
IMAGE_STD = (0.229, 0.224, 0.225)
LORA_TARGETS = r'(frame|global)_blocks\.\d+\.attn\.(qkv|proj)'


@BACKBONES.register_module()
class VGGT(nn.Module):
    """The aggregator of VGGT (vggt.md sections 2 to 5); the defaults are those of VGGT-1B.

    Parameter names are those of the released checkpoints below `aggregator.`.

    Args:
        img_size: side in pixels of the square images that the encoder's positional table is made for.
        patch_size: side of a patch in pixels.
        embed_dim: width C of the tokens.
        depth: number of pairs of a frame and a global block.
        num_heads: attention heads of these blocks.
        mlp_ratio: hidden width of their MLPs over C.
        patch_embed: 'conv', or the name of an image encoder (`jrs.layers.vit.VIT_SIZES`).
        num_register_tokens: register tokens per view, beside one camera token.
        rope_base: base of the rotary position embedding.
        init_values: initial LayerScale.
        feature_layers: pairs whose two outputs, side by side, the heads read.
        activation_checkpointing: in training, recompute every pair in the backward pass.
        lora: `rank`, `alpha` and `dropout` of low-rank adapters on the attention of all pairs; None = none.
        freeze: `patch_embed` and `blocks` (pairs and special tokens): True keeps them as they are; None = all learn.
    """

    pose_convention = 'cam_from_world, OpenCV axes, world = first camera'
    scale = 'arbitrary'
    has_reference_view = True
    full_precision = ()                        # weights that are also used outside autocast
    weights_licence = 'VGGT licence: non-commercial; a separate commercial file exists'

    def __init__(self, img_size: int = 518, patch_size: int = 14, embed_dim: int = 1024, depth: int = 24,
                 num_heads: int = 16, mlp_ratio: float = 4.0, patch_embed: str = 'dinov2_vitl14_reg',
                 num_register_tokens: int = 4, rope_base: float = 100.0, init_values: float = 0.01,
                 feature_layers: Sequence[int] = (4, 11, 17, 23), activation_checkpointing: bool = False,
                 lora: dict | None = None, freeze: dict | None = None) -> None:
        super().__init__()
        _check_layers(feature_layers, depth)
        self.embed_dim = embed_dim
        self.feature_dim = 2 * embed_dim
        self.patch_size = patch_size
        self.num_query_layers = depth
        self.feature_layers = tuple(feature_layers)
        self.size_rule = f'height and width are multiples of {patch_size}; trained with a longest side of {img_size}'
        self.num_special = 1 + num_register_tokens
        self.head_width = embed_dim // num_heads
        self.rope_base = rope_base
        self.activation_checkpointing = activation_checkpointing

        def blocks() -> nn.ModuleList:
            return nn.ModuleList(Block(embed_dim, num_heads, mlp_ratio, qk_norm=True, init_values=init_values)
                                 for _ in range(depth))
        self.patch_embed = build_patch_embed(patch_embed, embed_dim, img_size, patch_size)
        self.camera_token = nn.Parameter(1e-6 * torch.randn(1, 2, 1, embed_dim))
        self.register_token = nn.Parameter(1e-6 * torch.randn(1, 2, num_register_tokens, embed_dim))
        self.frame_blocks = blocks()
        self.global_blocks = blocks()
        self.register_buffer('image_mean', torch.tensor(IMAGE_MEAN).view(3, 1, 1), persistent=False)
        self.register_buffer('image_std', torch.tensor(IMAGE_STD).view(3, 1, 1), persistent=False)
        self._features: FeatureTaps | None = None
        self._freeze(**_checked('freeze', freeze, ('patch_embed', 'blocks')))
        self._adapt(_checked('lora', lora, ('rank', 'alpha', 'dropout')))

    def layers(self, images: Tensor) -> Iterator[LayerState]:
        """Yield the tokens after each global block, (B, T, C), the views end to end; then `features` are ready.

        Args:
            images: (B, V, 3, H, W) in [0, 1], RGB; H and W are multiples of `patch_size`.

        Raises:
            ValueError: images of another shape.
        """
        num_scenes, num_views, height, width = self._check(images)
        grid = (height // self.patch_size, width // self.patch_size)
        tokens = self._embed(images)                                            # (B, V, P, C)
        num_tokens = tokens.shape[2]
        positions = patch_positions(grid, self.num_special, images.device)      # (P, 2)
        frame_rope = GridRotation(positions, self.head_width, self.rope_base)
        global_rope = GridRotation(positions.repeat(num_views, 1), self.head_width, self.rope_base)
        view_index = torch.arange(num_views, device=images.device).repeat_interleave(num_tokens)    # (T,)
        is_patch = positions[:, 0].gt(0).repeat(num_views)                      # (T,)
        self._features = None
        taps = {}
        for index in range(self.num_query_layers):
            frame, tokens = self._pair(index, tokens, frame_rope, global_rope)  # (B, V, P, C) each
            if index in self.feature_layers:
                taps[index] = torch.cat([frame, tokens], dim=-1)                # (B, V, P, 2C)
            yield LayerState(index, tokens.flatten(1, 2), view_index, is_patch, num_views)
        kept = [taps[index] for index in self.feature_layers]
        patch_index = torch.arange(self.num_special, num_tokens, device=images.device)
        self._features = FeatureTaps(kept, patch_index, grid, (height, width), geometry_tokens=kept[-1][:, :, 0])

    def features(self) -> FeatureTaps:
        """Hand over what the heads read of the images last passed to `layers`; the backbone keeps no reference.

        Raises:
            RuntimeError: `layers` has not been run to its end since the last call.
        """
        if self._features is None:
            raise RuntimeError('features() hands over the result of layers(images) once: run that generator to its '
                               'end first.')
        features, self._features = self._features, None
        return features

    def train(self, mode: bool = True) -> VGGT:
        """Switch to training or evaluation; a frozen patch embedding stays in evaluation."""
        super().train(mode)
        if self._patch_embed_frozen:
            self.patch_embed.eval()
        return self

    def _embed(self, images: Tensor) -> Tensor:
        """Return the tokens (B, V, P, C) that enter the first pair: camera, registers, patches of each view."""
        num_scenes, num_views = images.shape[:2]
        normalised = (images - self.image_mean) / self.image_std
        patches = self.patch_embed(normalised.flatten(0, 1))                    # (B*V, h_p * w_p, C)
        patches = patches.unflatten(0, (num_scenes, num_views))                 # (B, V, h_p * w_p, C)
        special = torch.cat([self.camera_token, self.register_token], dim=2)    # (1, 2, 1 + registers, C)
        others = special[:, 1:].expand(-1, num_views - 1, -1, -1)               # the first view has tokens of its own
        special = torch.cat([special[:, :1], others], dim=1).expand(num_scenes, -1, -1, -1)
        return torch.cat([special, patches], dim=2)                             # (B, V, P, C)

    def _pair(self, index: int, tokens: Tensor, frame_rope: GridRotation,
              global_rope: GridRotation) -> tuple[Tensor, Tensor]:
        """Return the outputs (B, V, P, C) of frame block `index` and of the global block after it."""
        frame_block, global_block = self.frame_blocks[index], self.global_blocks[index]

        def run(tokens: Tensor) -> tuple[Tensor, Tensor]:
            frame = frame_block(tokens.flatten(0, 1), frame_rope).view(tokens.shape)
            return frame, global_block(frame.flatten(1, 2), global_rope).view(tokens.shape)

        if self.activation_checkpointing and self.training and torch.is_grad_enabled():
            return checkpoint(run, tokens, use_reentrant=False)
        return run(tokens)

    def _check(self, images: Tensor) -> tuple[int, int, int, int]:
        """Return (B, V, H, W) of `images`, or raise a ValueError."""
        shape = tuple(images.shape)
        if len(shape) != 5 or shape[2] != 3 or 0 in shape or shape[3] % self.patch_size or shape[4] % self.patch_size:
            raise ValueError(f'images must be (B, V, 3, H, W) with H and W multiples of {self.patch_size}, got {shape}')
        return shape[0], shape[1], shape[3], shape[4]

    def _freeze(self, patch_embed: bool = False, blocks: bool = False) -> None:
        self._patch_embed_frozen = patch_embed
        if patch_embed:
            self.patch_embed.requires_grad_(False).eval()
        if blocks:
            self.frame_blocks.requires_grad_(False)
            self.global_blocks.requires_grad_(False)
            self.camera_token.requires_grad_(False)
            self.register_token.requires_grad_(False)

    def _adapt(self, lora: dict) -> None:
        if lora:
            from jrs.layers.lora import add_lora
            add_lora(self, LORA_TARGETS, **lora)


def _check_layers(feature_layers: Sequence[int], depth: int) -> None:
    if not feature_layers or not all(0 <= layer < depth for layer in feature_layers):
        raise ConfigError(f'feature_layers {tuple(feature_layers)} must be numbers of layers, 0 .. {depth - 1} for '
                          f'depth={depth}; at least one.')


def _checked(name: str, options: dict | None, allowed: tuple[str, ...]) -> dict:
    """Return `options`, empty for None, after checking its keys."""
    for key in options or {}:
        if key not in allowed:
            raise ConfigError(f'{name} of VGGT has no option {key!r}.{did_you_mean(key, allowed)}')
    return dict(options or {})
