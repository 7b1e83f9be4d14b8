"""MapAnything's encoders and multi-view transformers: all views first, then each view; a token for the scale."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor, nn

from jrs.backbones.steps import IMAGE_MEAN, IMAGE_STD, State, Step, StepBackbone
from jrs.errors import ConfigError, did_you_mean
from jrs.layers.block import Block, Mlp, SwiGLU
from jrs.layers.layout import Layout
from jrs.layers.vit import PatchEmbed, VitSize, fill_for_scratch, table_by_factor
from jrs.registry import BACKBONES
from jrs.structures import FeatureTaps

NORM_EPS = 1e-6                                # of every norm
PATCH_SIZE = 14                                # of both released encoders
VIT_G, VIT_L = 'dinov2_vitg14', 'dinov2_vitl14'
RELEASED = {VIT_G: VitSize(1536, 24, 24), VIT_L: VitSize(1024, 24, 16)}        # the first 24 of ViT-g's 40 blocks
ENCODED = 'encoder_patches'                    # map of V1: the encoder's patches, wider than the tokens of the layers


class ClassTokenEncoder(nn.Module):
    """DINOv2 as published: no registers, a table resized by factor.

    Args:
        embed_dim: width C.
        depth: number of blocks.
        num_heads: attention heads.
        img_size: side in pixels of the square images that the positional table is made for.
        patch_size: side of a patch in pixels.
        mlp_ratio: hidden width of a plain MLP over C.
        mlp: class of the MLPs: `SwiGLU` or `Mlp`.
        norm: whether tokens are normalised in the end.
    """

    def __init__(self, embed_dim: int, depth: int, num_heads: int, img_size: int, patch_size: int, mlp_ratio: float,
                 mlp: Callable[[int, int], nn.Module] = SwiGLU, norm: bool = False) -> None:
        super().__init__()
        self.patch_size = patch_size
        self.cls_token = nn.Parameter(1e-6 * torch.randn(1, 1, embed_dim))
        self.pos_embed = nn.Parameter(0.02 * torch.randn(1, (img_size // patch_size) ** 2 + 1, embed_dim))
        self.patch_embed = PatchEmbed(patch_size, embed_dim)
        self.blocks = nn.ModuleList(Block(embed_dim, num_heads, mlp_ratio, NORM_EPS, init_values=1.0, mlp=mlp)
                                    for _ in range(depth))
        self.norm = nn.LayerNorm(embed_dim, eps=NORM_EPS) if norm else nn.Identity()

    def forward(self, images: Tensor) -> Tensor:
        """Return tokens (n, 1 + h_p * w_p, C), class, then patches row-major, of normalised `images` (n, 3, H, W)."""
        patches = self.patch_embed(images)                                      # (n, h_p * w_p, C)
        grid = tuple(side // self.patch_size for side in images.shape[-2:])
        tokens = torch.cat([self.cls_token.expand(len(images), -1, -1), patches], dim=1)
        tokens = tokens + table_by_factor(self.pos_embed, grid).to(tokens.dtype)
        for block in self.blocks:
            tokens = block(tokens)
        return self.norm(tokens)


class AlternatingViews(StepBackbone):
    """What both versions share: an encoder, layers that see the scene and one view in turn, a scale token. Base class.

    A subclass says in `start` what goes into the layers.
    """

    scale = 'metric'
    input_layer = -1
    encoder_parts = ('encoder',)

    def add_parts(self, encoder: nn.Module, encoder_dim: int, make_block: Callable[[], nn.Module], depth: int) -> None:
        """Add all that both versions have; the encoder's tokens and the scale token are of width `encoder_dim`."""
        self.encoder = encoder
        self.fusion_norm_layer = nn.LayerNorm(encoder_dim, eps=NORM_EPS)
        self.scale_token = nn.Parameter(0.02 * torch.randn(encoder_dim))
        self.self_attention_blocks = nn.ModuleList(make_block() for _ in range(depth))
        self.norm = nn.LayerNorm(self.embed_dim, eps=NORM_EPS)
        table = torch.arange(self.embed_dim).remainder(2).float()[None]         # (1, C)
        self.register_buffer('view_pos_table', table)                           # in the files
        self.register_buffer('image_mean', torch.tensor(IMAGE_MEAN).view(3, 1, 1), persistent=False)
        self.register_buffer('image_std', torch.tensor(IMAGE_STD).view(3, 1, 1), persistent=False)

    def steps(self) -> list[Step]:
        """Return all layers: even ones see the scene, odd ones their view; queries read after the former."""
        return [Step(block, 'view', number=index) if index % 2 else Step(block, 'scene', query=True, number=index)
                for index, block in enumerate(self.self_attention_blocks)]

    def before(self, index: int, state: State) -> State:
        """Return `state`; into the first layer the first view goes with its offset."""
        if index:
            return state
        first = state.views[:, :1] + self.view_pos_table                        # (B, 1, P, C)
        return replace(state, views=torch.cat([first, state.views[:, 1:]], dim=1))

    def tap(self, state: State, layout: Layout) -> Tensor:
        """Return the normalised output of a layer, or what `start` gave as it is, (B, V, P, C)."""
        return state.views if state.previous is None else self.norm(state.views)

    def finish(self, taps: list[Tensor], state: State, layout: Layout) -> FeatureTaps:
        """Return the taps, and the scale token (B, 1, C) normalised."""
        return super().finish(taps, replace(state, extra=self.norm(state.extra)), layout)


@BACKBONES.register_module()
class MapAnything(AlternatingViews):
    """The encoder and the multi-view transformer of MapAnything V1.1, image only (backbones.md section 3).

    Tokens of a view: patches, then the encoder's class token; one token of no view, for the scale. Even layers see the whole
    scene and are read by queries, odd ones their view. The first view is told by an offset. The defaults are those of the
    released files, in which layers are numbered as `feature_layers` here, and -1 are the encoder's patches.

    Args:
        img_size: side in pixels of the square images that the encoder's positional table is made for.
        patch_size: side of a patch in pixels.
        embed_dim: width C of all tokens.
        depth: number of layers.
        num_heads: attention heads of encoder and layers.
        mlp_ratio: hidden width of plain MLPs over C; theirs, `SwiGLU`, have as many weights.
        patch_embed: 'dinov2_vitg14', 24 blocks, as released; 'vit', `encoder_depth` blocks; 'conv', none.
        encoder_depth: blocks of the encoder 'vit'.
        init_values: initial LayerScale of the layers.
        feature_layers: -1, and layers whose normalised output heads read.
        activation_checkpointing, global_attention: as of `jrs.backbones.steps.StepBackbone`.
        lora: `rank`, `alpha` and `dropout` of low-rank adapters on the attention of all layers; None = none.
        freeze: `patch_embed` (the encoder) and `blocks` (layers, norms, scale token): True keeps them; None = all learn.

    Raises:
        ConfigError: there is no such encoder, or it has another width.
    """

    num_special = 1
    example = dict(img_size=56, embed_dim=16, depth=4, num_heads=2, patch_embed='conv', feature_layers=(-1, 1, 2, 3))
    weights_licence = 'CC BY-NC 4.0 (facebook/map-anything) or Apache-2.0 (facebook/map-anything-apache)'
    official_weights = ('Put the released MapAnything V1.1 there: model.safetensors from '
                        'https://huggingface.co/facebook/map-anything-apache (Apache-2.0) or .../map-anything (CC BY-NC '
                        '4.0). Or name your copy: --cfg-options weights=FILE.')

    def __init__(self, img_size: int = 518, patch_size: int = 14, embed_dim: int = 1536, depth: int = 16,
                 num_heads: int = 24, mlp_ratio: float = 4.0, patch_embed: str = 'dinov2_vitg14', encoder_depth: int = 4,
                 init_values: float = 1e-5, feature_layers: Sequence[int] = (-1, 7, 11, 15),
                 activation_checkpointing: bool | str = False, global_attention: dict | None = None,
                 lora: dict | None = None, freeze: dict | None = None) -> None:
        super().__init__(embed_dim, patch_size, feature_layers, activation_checkpointing, global_attention,
                         feature_dim=embed_dim, img_size=img_size)
        blocks = _encoder_blocks(patch_embed, VIT_G, encoder_depth, embed_dim, patch_size)
        encoder = ClassTokenEncoder(embed_dim, blocks, num_heads, img_size, patch_size, mlp_ratio)
        if patch_embed == 'vit':
            fill_for_scratch(encoder.blocks, encoder.pos_embed)
        self.add_parts(encoder, embed_dim, partial(Block, embed_dim, num_heads, mlp_ratio, NORM_EPS, init_values=init_values,
                                                   mlp=SwiGLU), depth)
        self.complete(lora, freeze)

    def start(self, images: Tensor) -> tuple[State, Layout]:
        """Return the tokens (B, V, P, C), normalised patches, then the class token of each view; the scale token; places."""
        tokens = self.encode(images)
        views = torch.cat([self.fusion_norm_layer(tokens[:, :, 1:]), tokens[:, :, :1]], dim=2)      # (B, V, P, C)
        scale_token = self.scale_token.expand(len(images), 1, -1)
        return State(views, scale_token), Layout.of(images, self.patch_size, behind=1, num_extra=1)

    def finish(self, taps: list[Tensor], state: State, layout: Layout) -> FeatureTaps:
        """Return the taps; the scale token (B, 1, C) normalised; class tokens (B, V, C), where cameras are read from one."""
        features = super().finish(taps, state, layout)
        features.geometry_tokens = taps[-1][:, :, -1]
        return features


@BACKBONES.register_module()
class MapAnythingV1(AlternatingViews):
    """The encoder and the multi-view transformer of MapAnything V1, image only (backbones.md section 3).

    A smaller DINOv2 with a norm in the end, and narrower layers without LayerScale behind a linear map. Tokens of a view are
    its patches alone; one token of no view, for the scale. The defaults are those of the released files. Layers are numbered
    as in `MapAnything`; -1 are the patches that enter the layers (ours: the released head reads them before the linear map,
    and so the backbone leaves them as the map 'encoder_patches').

    Args:
        img_size: side in pixels of the square images that the encoder's positional table is made for.
        patch_size: side of a patch in pixels.
        embed_dim: width C of the tokens in the layers.
        depth: number of layers.
        num_heads: attention heads of the layers.
        mlp_ratio: hidden width of MLPs over their own width.
        patch_embed: 'dinov2_vitl14', 24 blocks, as released; 'vit', `encoder_depth` blocks; 'conv', none.
        encoder_depth: blocks of the encoder 'vit'.
        encoder_dim: width of the encoder's tokens.
        encoder_heads: attention heads of the encoder.
        feature_layers: -1, and layers whose normalised output heads read.
        activation_checkpointing, global_attention: as of `jrs.backbones.steps.StepBackbone`.
        lora: `rank`, `alpha` and `dropout` of low-rank adapters on the attention of all layers; None = none.
        freeze: `patch_embed` (the encoder) and `blocks` (layers, linear map, norms, scale token): True keeps them; None =
            all learn.

    Raises:
        ConfigError: there is no such encoder, or it has another width.
    """

    leaves = (ENCODED,)
    example = dict(img_size=56, embed_dim=16, depth=4, num_heads=2, patch_embed='conv', encoder_dim=24, encoder_heads=2,
                   feature_layers=(-1, 1, 2, 3))
    weights_licence = 'CC BY-NC 4.0 (facebook/map-anything-v1) or Apache-2.0 (facebook/map-anything-apache-v1)'
    official_weights = ('Put the released MapAnything V1 there: model.safetensors from '
                        'https://huggingface.co/facebook/map-anything-apache-v1 (Apache-2.0) or .../map-anything-v1 (CC '
                        'BY-NC 4.0). Or name your copy: --cfg-options weights=FILE.')

    def __init__(self, img_size: int = 518, patch_size: int = 14, embed_dim: int = 768, depth: int = 24,
                 num_heads: int = 12, mlp_ratio: float = 4.0, patch_embed: str = VIT_L, encoder_depth: int = 4,
                 encoder_dim: int = 1024, encoder_heads: int = 16, feature_layers: Sequence[int] = (-1, 11, 17, 23),
                 activation_checkpointing: bool | str = False, global_attention: dict | None = None,
                 lora: dict | None = None, freeze: dict | None = None) -> None:
        super().__init__(embed_dim, patch_size, feature_layers, activation_checkpointing, global_attention,
                         feature_dim=embed_dim, img_size=img_size)
        blocks = _encoder_blocks(patch_embed, VIT_L, encoder_depth, encoder_dim, patch_size)
        encoder = ClassTokenEncoder(encoder_dim, blocks, encoder_heads, img_size, patch_size, mlp_ratio, Mlp, norm=True)
        if patch_embed == 'vit':
            fill_for_scratch(encoder.blocks, encoder.pos_embed)
        self.add_parts(encoder, encoder_dim, partial(Block, embed_dim, num_heads, mlp_ratio, NORM_EPS, init_values=None),
                       depth)
        self.proj_embed = nn.Linear(encoder_dim, embed_dim)
        self.complete(lora, freeze)

    def start(self, images: Tensor) -> tuple[State, Layout]:
        """Return the patches (B, V, P, C) behind the linear map; the scale token, behind it too; places."""
        patches = self.fusion_norm_layer(self.encode(images)[:, :, 1:])        # (B, V, P, encoder_dim)
        scale_token = self.proj_embed(self.scale_token).expand(len(images), 1, -1)
        state = State(self.proj_embed(patches), scale_token, kept={ENCODED: patches})
        return state, Layout.of(images, self.patch_size, num_extra=1)

    def finish(self, taps: list[Tensor], state: State, layout: Layout) -> FeatureTaps:
        """Return the taps; the scale token (B, 1, C) normalised; the mean of the patches (B, V, C), where cameras are read
        from one token; the map 'encoder_patches' (B, V, P, encoder_dim)."""
        features = super().finish(taps, state, layout)
        features.geometry_tokens = taps[-1].mean(dim=2)
        features.maps[ENCODED] = state.kept[ENCODED]
        return features


def _encoder_blocks(name: str, released: str, depth: int, embed_dim: int, patch_size: int) -> int:
    """Return how many blocks the encoder `name` has; `released` is the one of the released files."""
    size = RELEASED[released]
    blocks = {'conv': 0, 'vit': depth, released: size.depth}
    if name not in blocks:
        raise ConfigError(f'MapAnything has no encoder {name!r}, only {", ".join(blocks)}.{did_you_mean(name, blocks)}')
    if name == released and (embed_dim, patch_size) != (size.embed_dim, PATCH_SIZE):
        raise ConfigError(f'{released} makes tokens of width {size.embed_dim} from patches of {PATCH_SIZE} pixels; '
                          f'embed_dim={embed_dim}, patch_size={patch_size} do not fit. Change them, or use '
                          'patch_embed="vit".')
    return blocks[name]
