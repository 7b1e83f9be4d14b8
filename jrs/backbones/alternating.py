"""Attention inside each view and over all views in turn: what VGGT and its relatives share."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from jrs.errors import ConfigError, did_you_mean
from jrs.layers.rope import GridRotation, patch_positions
from jrs.structures import FeatureTaps, LayerState

IMAGE_MEAN = (0.485, 0.456, 0.406)
IMAGE_STD = (0.229, 0.224, 0.225)


class AlternatingBackbone(nn.Module):
    """Runs pairs of a frame block, over the tokens of each view, and a global block, over those of all views.

    Base class. A subclass makes the parameters, calls `fine_tune` at the end of its constructor, and defines `embed`, `pair`
    and `geometry_tokens`. Special tokens stand before the patches of their view, at position 0 of the rotary embedding.

    Args:
        embed_dim: width C of the tokens.
        depth: number of pairs; queries read after each.
        num_heads: attention heads of the blocks.
        img_size: side in pixels of the images that the positional table of the encoder is made for.
        patch_size: side of a patch in pixels.
        num_special: special tokens per view.
        rope_base: base of the rotary position embedding.
        feature_layers: pairs whose two outputs, side by side, the heads read.
        activation_checkpointing: in training, recompute every pair in the backward pass.

    Raises:
        ConfigError: a feature layer that does not exist.
    """

    encoder_name: str                          # attribute of the image encoder
    pair_parts: tuple[str, ...]                # attributes of the pairs' blocks and the special tokens
    lora_targets: str                          # regular expression for the linear layers that low-rank adapters go on

    def __init__(self, embed_dim: int, depth: int, num_heads: int, img_size: int, patch_size: int, num_special: int,
                 rope_base: float, feature_layers: Sequence[int], activation_checkpointing: bool) -> None:
        super().__init__()
        _check_layers(feature_layers, depth)
        self.embed_dim = embed_dim
        self.feature_dim = 2 * embed_dim
        self.patch_size = patch_size
        self.num_query_layers = depth
        self.feature_layers = tuple(feature_layers)
        self.size_rule = f'height and width are multiples of {patch_size}; trained with a longest side of {img_size}'
        self.num_special = num_special
        self.head_width = embed_dim // num_heads
        self.rope_base = rope_base
        self.activation_checkpointing = activation_checkpointing
        self._features: FeatureTaps | None = None
        self._encoder_frozen = False

    def embed(self, images: Tensor) -> Tensor:
        """Return the tokens (B, V, P, C) that enter the first pair for `images` (B, V, 3, H, W) in [0, 1]."""
        raise NotImplementedError

    def pair(self, index: int) -> tuple[nn.Module, nn.Module]:
        """Return the frame block and the global block of pair `index`."""
        raise NotImplementedError

    def geometry_tokens(self, tap: Tensor) -> Tensor:
        """Return what cameras are read from, (B, V, 2C), of the last tap (B, V, P, 2C)."""
        raise NotImplementedError

    def layers(self, images: Tensor) -> Iterator[LayerState]:
        """Yield the tokens after each global block, (B, T, C), the views end to end; then `features` are ready.

        Args:
            images: (B, V, 3, H, W) in [0, 1], RGB; H and W are multiples of `patch_size`.

        Raises:
            ValueError: images of another shape.
        """
        num_views, height, width = self._check(images)
        grid = (height // self.patch_size, width // self.patch_size)
        tokens = self.embed(images)                                             # (B, V, P, C)
        num_tokens = tokens.shape[2]
        positions = patch_positions(grid, self.num_special, images.device)      # (P, 2)
        frame_rope = GridRotation(positions, self.head_width, self.rope_base)
        global_rope = GridRotation(positions.repeat(num_views, 1), self.head_width, self.rope_base)
        view_index = torch.arange(num_views, device=images.device).repeat_interleave(num_tokens)    # (T,)
        is_patch = positions[:, 0].gt(0).repeat(num_views)                      # (T,)
        self._features = None
        taps = {}
        for index in range(self.num_query_layers):
            frame, tokens = self._run_pair(index, tokens, frame_rope, global_rope)      # (B, V, P, C) each
            if index in self.feature_layers:
                taps[index] = torch.cat([frame, tokens], dim=-1)                # (B, V, P, 2C)
            yield LayerState(index, tokens.flatten(1, 2), view_index, is_patch, num_views)
        kept = [taps[index] for index in self.feature_layers]
        patch_index = torch.arange(self.num_special, num_tokens, device=images.device)
        self._features = FeatureTaps(kept, patch_index, grid, (height, width), self.geometry_tokens(kept[-1]))

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

    def train(self, mode: bool = True) -> AlternatingBackbone:
        """Switch to training or evaluation; a frozen image encoder stays in evaluation."""
        super().train(mode)
        if self._encoder_frozen:
            getattr(self, self.encoder_name).eval()
        return self

    def fine_tune(self, lora: dict | None, freeze: dict | None) -> None:
        """Freeze and adapt what the options of the constructor say.

        Args:
            lora: `rank`, `alpha` and `dropout` of low-rank adapters on the attention of all pairs; None = none.
            freeze: `patch_embed` (the image encoder) and `blocks` (pairs and special tokens): True keeps them as they are;
                None = all learn.

        Raises:
            ConfigError: another option.
        """
        self._freeze(**self._checked('freeze', freeze, ('patch_embed', 'blocks')))
        adapters = self._checked('lora', lora, ('rank', 'alpha', 'dropout'))
        if adapters:
            from jrs.layers.lora import add_lora
            add_lora(self, self.lora_targets, **adapters)

    def _freeze(self, patch_embed: bool = False, blocks: bool = False) -> None:
        self._encoder_frozen = patch_embed
        if patch_embed:
            getattr(self, self.encoder_name).requires_grad_(False).eval()
        for name in self.pair_parts if blocks else ():
            getattr(self, name).requires_grad_(False)

    def _checked(self, name: str, options: dict | None, allowed: tuple[str, ...]) -> dict:
        """Return `options`, empty for None, after checking its keys."""
        for key in options or {}:
            if key not in allowed:
                raise ConfigError(f'{name} of {type(self).__name__} has no option {key!r}.{did_you_mean(key, allowed)}')
        return dict(options or {})

    def _run_pair(self, index: int, tokens: Tensor, frame_rope: GridRotation,
                  global_rope: GridRotation) -> tuple[Tensor, Tensor]:
        """Return the outputs (B, V, P, C) of the frame block of pair `index` and of the global block after it."""
        frame_block, global_block = self.pair(index)

        def run(tokens: Tensor) -> tuple[Tensor, Tensor]:
            frame = frame_block(tokens.flatten(0, 1), frame_rope).view(tokens.shape)
            return frame, global_block(frame.flatten(1, 2), global_rope).view(tokens.shape)

        if self.activation_checkpointing and self.training and torch.is_grad_enabled():
            return checkpoint(run, tokens, use_reentrant=False)
        return run(tokens)

    def _check(self, images: Tensor) -> tuple[int, int, int]:
        """Return (V, H, W) of `images`, or raise a ValueError."""
        shape = tuple(images.shape)
        if len(shape) != 5 or shape[2] != 3 or 0 in shape or shape[3] % self.patch_size or shape[4] % self.patch_size:
            raise ValueError(f'images must be (B, V, 3, H, W) with H and W multiples of {self.patch_size}, got {shape}')
        return shape[1], shape[3], shape[4]


def _check_layers(feature_layers: Sequence[int], depth: int) -> None:
    if not feature_layers or not all(0 <= layer < depth for layer in feature_layers):
        raise ConfigError(f'feature_layers {tuple(feature_layers)} must be numbers of layers, 0 .. {depth - 1} for '
                          f'depth={depth}; at least one.')
