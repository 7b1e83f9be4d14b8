"""MUSt3R: an encoder, and a decoder that renders each view against a memory of key views (backbones.md section 5)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from jrs.backbones.steps import State, Step, StepBackbone
from jrs.errors import ConfigError
from jrs.layers.attention import ReadingAttention, SelfAttention
from jrs.layers.block import Block, Mlp
from jrs.layers.layout import Layout, evenly_spaced
from jrs.layers.rope import GridRotation
from jrs.layers.vit import PatchEmbed
from jrs.registry import BACKBONES
from jrs.structures import FeatureTaps

NORM_EPS = 1e-6                                # of all norms but that of the feedback
FEEDBACK_EPS = 1e-5
FIRST_GROUP = 2                                # views that the memory starts from together; then one at a time
ENCODED = 'encoder'                            # in `State.kept`
FEEDBACKS = ('single_mlp', 'single_linear', None)


class MemoryBlock(nn.Module):
    """Attention inside each view, then to the memory, then an MLP, each on normalised tokens and added to them.

    Args:
        dim: width C.
        num_heads: of both attentions.
        mlp_ratio: hidden width of the MLP over C.
    """

    def __init__(self, dim: int, num_heads: int, mlp_ratio: float) -> None:
        super().__init__()
        self.norm1, self.norm2, self.norm_y, self.norm3 = (nn.LayerNorm(dim, eps=NORM_EPS) for _ in range(4))
        self.attn = SelfAttention(dim, num_heads)
        self.cross_attn = ReadingAttention(dim, num_heads)
        self.mlp = Mlp(dim, int(dim * mlp_ratio))

    def forward(self, tokens: Tensor, rope: GridRotation, memory: Tensor, allowed: Tensor | None = None) -> Tensor:
        """Return `tokens` (B*V, P, C) after the block.

        Args:
            tokens: of V views of each of B scenes.
            rope: turns queries and keys inside a view.
            memory: (B, M, C), normalised by this block's `norm_y`.
            allowed: (V * P, M) bool, False hides a token of the memory; None = all of it is seen.
        """
        tokens = tokens + self.attn(self.norm1(tokens), rope)
        query = self.norm2(tokens).unflatten(0, (len(memory), -1)).flatten(1, 2)            # (B, V * P, C)
        tokens = tokens + self.cross_attn(query, memory, allowed).view(tokens.shape)
        return tokens + self.mlp(self.norm3(tokens))


class ImageEncoder(nn.Module):
    """A vision transformer with rotary positions alone: no special tokens, no table.

    Args:
        patch_size: side of a patch in pixels.
        dim, depth, num_heads: width, number of blocks, heads.
        mlp_ratio: hidden width of the MLPs over the width.
    """

    def __init__(self, patch_size: int, dim: int, depth: int, num_heads: int, mlp_ratio: float) -> None:
        super().__init__()
        self.patch_embed = PatchEmbed(patch_size, dim)
        self.blocks_enc = nn.ModuleList(Block(dim, num_heads, mlp_ratio, NORM_EPS, init_values=None) for _ in range(depth))
        self.norm_enc = nn.LayerNorm(dim, eps=NORM_EPS)

    def forward(self, images: Tensor, rope: GridRotation) -> Tensor:
        """Return normalised tokens (n, h_p * w_p, C), row-major, of `images` (n, 3, H, W) in [-1, 1]."""
        tokens = self.patch_embed(images)
        for block in self.blocks_enc:
            tokens = block(tokens, rope)
        return self.norm_enc(tokens)


@BACKBONES.register_module()
class MUSt3R(StepBackbone):
    """Encoder and decoder of MUSt3R; the defaults are those of the released 512 model (backbones.md section 5).

    Before the first layer, the memory is built of the key views: the first two together, then one at a time, each seeing
    what is there of those before it. Then all views are rendered against it, independently of each other; queries read after
    each block of that pass. So the order of the views matters, and a memory is as long as the key views are many. There are
    no special tokens; a camera that is read from one token per view gets the mean over the patches of the last tap (ours).
    Parameter names are those of the released files.

    `feature_layers` are numbers of decoder blocks, the last of which is followed by the decoder's norm, and -1, the tokens
    of the encoder, which have a width of their own.

    Args:
        img_size: longest side of the images that it was trained with.
        patch_size: side of a patch in pixels.
        embed_dim: width C of the decoder's tokens.
        depth, num_heads: blocks of the decoder, and heads of all their attentions.
        encoder_dim, encoder_depth, encoder_heads: of the encoder.
        mlp_ratio: hidden width of all MLPs over the width.
        feedback: what memories get of the last block's input: 'single_mlp', 'single_linear', or None.
        rope_base: base of the rotary position embedding.
        rope_scale: what positions are multiplied by; a file whose `args` say `RoPE100_224:512` wants 224 / 512.
        key_views: the memory is built of so many views at most, evenly spaced, at least 2; None = of all.
        feature_layers, activation_checkpointing: as of `jrs.backbones.steps.StepBackbone`.
        lora: `rank`, `alpha` and `dropout` of low-rank adapters on the attentions of the decoder; None = none.
        freeze: `patch_embed` (the encoder) and `blocks` (all the rest): True keeps them; None = all learn.

    Raises:
        ConfigError: no such feedback, or a number of key views below 2.
    """

    pose_convention = 'cam_from_world, OpenCV axes, world = first camera'
    scale = 'metric, approximate'
    order_matters = True
    input_layer = -1
    encoder_parts = ('encoder',)
    lora_targets = r'blocks_dec\.\d+\.(attn\.(qkv|proj)|cross_attn\.proj[qkv]?)'
    weights_licence = 'MUSt3R Non-Commercial License (Naver); its training data have terms of their own'
    official_weights = ('Put the released MUSt3R there: MUSt3R_512.pth (non-commercial licence of Naver), linked from '
                        'https://github.com/naver/must3r. Or name your copy: --cfg-options weights=FILE.')
    example = dict(embed_dim=16, depth=2, num_heads=2, encoder_dim=24, encoder_depth=1, encoder_heads=2,
                   feature_layers=(0, 0, 1, 1))

    def __init__(self, img_size: int = 512, patch_size: int = 16, embed_dim: int = 768, depth: int = 12, num_heads: int = 12,
                 encoder_dim: int = 1024, encoder_depth: int = 24, encoder_heads: int = 16, mlp_ratio: float = 4.0,
                 feedback: str | None = 'single_mlp', rope_base: float = 100.0, rope_scale: float = 1.0,
                 key_views: int | None = None, feature_layers: Sequence[int] = (2, 5, 8, 11),
                 activation_checkpointing: bool | str = False, lora: dict | None = None, freeze: dict | None = None) -> None:
        super().__init__(embed_dim, patch_size, feature_layers, activation_checkpointing, feature_dim=embed_dim,
                         img_size=img_size)
        if feedback not in FEEDBACKS or (key_views is not None and key_views < FIRST_GROUP):
            raise ConfigError(f'MUSt3R.feedback is one of {", ".join(map(repr, FEEDBACKS))} and key_views at least '
                              f'{FIRST_GROUP}, or None, got {feedback!r} and {key_views}.')
        self.key_views, self.rope_base, self.rope_scale = key_views, rope_base, rope_scale
        self.head_widths = embed_dim // num_heads, encoder_dim // encoder_heads
        self.tap_dims = tuple(encoder_dim if layer == self.input_layer else embed_dim for layer in self.feature_layers)
        self.encoder = ImageEncoder(patch_size, encoder_dim, encoder_depth, encoder_heads, mlp_ratio)
        self.feat_embed_enc_to_dec = nn.Linear(encoder_dim, embed_dim)
        self.image2_embed = nn.Parameter(0.02 * torch.randn(1, 1, embed_dim))
        self.blocks_dec = nn.ModuleList(MemoryBlock(embed_dim, num_heads, mlp_ratio) for _ in range(depth))
        if feedback is not None:
            self.feedback_norm = nn.LayerNorm(embed_dim, eps=FEEDBACK_EPS)
            self.feedback_layer = nn.Linear(embed_dim, embed_dim) if feedback == 'single_linear' else \
                Mlp(embed_dim, int(embed_dim * mlp_ratio))
        self.norm_dec = nn.LayerNorm(embed_dim, eps=NORM_EPS)
        self.complete(lora, freeze)

    def start(self, images: Tensor) -> tuple[State, Layout]:
        """Return the tokens (B, V, P, C) that enter the first block; beside them the memory of each block is kept."""
        layout = Layout.of(images, self.patch_size)
        decoder, encoder = (GridRotation(self.rope_scale * layout.positions, width, self.rope_base)
                            for width in self.head_widths)
        encoded = self.encoder(2 * images.flatten(0, 1) - 1, encoder).unflatten(0, images.shape[:2])        # (B, V, P, E)
        tokens = self.feat_embed_enc_to_dec(encoded)                            # (B, V, P, C)
        keys = evenly_spaced(images.shape[1], self.key_views or images.shape[1], images.device)
        memory = self.remember(tokens.index_select(1, keys), decoder)
        kept = {ENCODED: encoded} | {_memory_of(index): values for index, values in enumerate(memory)}
        return State(tokens + self.image2_embed, kept=kept), replace(layout, rotations={'view': decoder})

    def remember(self, tokens: Tensor, rope: GridRotation, groups: Sequence[int] | None = None) -> list[Tensor]:
        """Return the memory of each block, L of (B, K * P, C), of K key views, view after view.

        Args:
            tokens: (B, K, P, C) as `feat_embed_enc_to_dec` gives them.
            rope: of the decoder.
            groups: how many views enter at a time; None = two, then one.
        """
        if groups is None:
            first = min(FIRST_GROUP, tokens.shape[1])
            groups = [first] + [1] * (tokens.shape[1] - first)
        recompute = self.activation_checkpointing and self.training and torch.is_grad_enabled()
        memory: list[Tensor] = []
        for group in tokens.split(list(groups), dim=1):
            memory = checkpoint(self._update, group, memory, rope, use_reentrant=False)[0] if recompute else \
                self._update(group, memory, rope)[0]
        return memory

    def _update(self, tokens: Tensor, memory: list[Tensor], rope: GridRotation) -> tuple[list[Tensor], Tensor]:
        """Return the memory with `tokens` (B, n, P, C) of n further views; what the decoder says of these, (B, n, P, C).

        A view sees the memory and the other views that enter with it, but itself only where there is nothing else.
        """
        shape = tokens.shape
        tokens = tokens + self.image2_embed if memory else torch.cat(
            [tokens[:, :1], tokens[:, 1:] + self.image2_embed], dim=1)          # the first view of all is the reference
        allowed = _others(shape[1], shape[2], memory[0].shape[1] if memory else 0, tokens.device)
        inputs, current = [], tokens.flatten(0, 1)                              # (B * n, P, C)
        for index, block in enumerate(self.blocks_dec):
            inputs.append(current)
            seen = block.norm_y(current).view(shape).flatten(1, 2)              # (B, n * P, C)
            seen = torch.cat([memory[index], seen], dim=1) if memory else seen
            current = block(current, rope, seen, allowed)
        if hasattr(self, 'feedback_layer'):
            offset = self.feedback_layer(self.feedback_norm(inputs[-1]))
            inputs = [*(value + offset for value in inputs[:-1]), inputs[-1]]
        new = [block.norm_y(value).view(shape).flatten(1, 2) for block, value in zip(self.blocks_dec, inputs, strict=True)]
        grown = [torch.cat(pair, dim=1) for pair in zip(memory, new, strict=True)] if memory else new
        return grown, self.norm_dec(current).view(shape)

    def steps(self) -> list[Step]:
        """Return the blocks of the rendering pass, each with the memory of its layer; queries read after all."""
        return [Step(block, 'view', 'view', query=True, context=_memory_of(index))
                for index, block in enumerate(self.blocks_dec)]

    def after(self, index: int, state: State) -> State:
        """Return `state`; that after the last block is normalised."""
        return replace(state, views=self.norm_dec(state.views)) if index == len(self.blocks_dec) - 1 else state

    def tap(self, state: State, layout: Layout) -> Tensor:
        """Return the output of a block, (B, V, P, C), or what the encoder gave, (B, V, P, E)."""
        return state.kept[ENCODED] if state.previous is None else state.views

    def finish(self, taps: list[Tensor], state: State, layout: Layout) -> FeatureTaps:
        """Return the taps; a camera read from one token per view gets the mean over patches (B, V, C) of the last block."""
        features = super().finish(taps, state, layout)
        features.geometry_tokens = state.views.mean(dim=2)
        return features


def _memory_of(index: int) -> str:
    """Return what `State.kept` calls the memory of block `index`."""
    return f'memory{index}'


def _others(views: int, per_view: int, before: int, device: torch.device) -> Tensor | None:
    """Return which tokens those of new views may see, (V * P, `before` + V * P) bool; None = all that there are."""
    if views == 1 and not before:
        return None
    own = torch.arange(views, device=device).repeat_interleave(per_view)        # (V * P,)
    return torch.cat([own.new_ones(len(own), before, dtype=torch.bool), own[:, None] != own], dim=1)
