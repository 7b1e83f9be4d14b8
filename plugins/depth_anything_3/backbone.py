"""Depth Anything 3: one vision transformer whose later blocks attend, every other one, over all views."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from jrs_plugins.depth_anything_3.reference import STRATEGIES, order_of_views
from jrs_plugins.depth_anything_3.sizes import RULES
from torch import Tensor, nn

from jrs.backbones.steps import IMAGE_MEAN, IMAGE_STD, State, Step, StepBackbone
from jrs.errors import ConfigError, did_you_mean, find_named
from jrs.layers.block import Block, Mlp, SwiGLU
from jrs.layers.layout import Layout
from jrs.layers.vit import PatchEmbed, fill_for_scratch, table_by_factor
from jrs.registry import BACKBONES
from jrs.structures import FeatureTaps

BLOCK_EPS = 1e-6                               # of the block norms; the others have 1e-5
MLPS = {'gelu': Mlp, 'swiglu': SwiGLU}


@BACKBONES.register_module()
class DepthAnything3(StepBackbone):
    """The transformer of Depth Anything 3 (backbones.md section 6.1); the defaults are those of the released Large.

    A class token stands before the patches of each view. From `alt_start` on it gives way to a camera token, odd blocks see
    all views, where patches have no place, and queries read after these. Just before, one view of each scene becomes its
    reference and goes first; what leaves is in the order of the images. Parameter names are those of the released file.

    Args:
        img_size: side in pixels of the square images that the positional table is made for.
        patch_size: side of a patch in pixels.
        embed_dim: width C of the tokens.
        depth: number of blocks.
        num_heads: attention heads of the blocks.
        mlp_ratio: hidden width of their MLPs over C.
        mlp: their kind, 'gelu' or 'swiglu' (Giant).
        alt_start: first block with a camera token, rotary position embedding and normed queries and keys; odd blocks from it
            on see all views. None = a third of `depth`, as in all released sizes.
        reference_view: how the reference is chosen among three views or more: 'saddle_balanced' (released),
            'saddle_sim_range', 'first' or 'middle'. Two views keep their order.
        rope_base: base of the rotary position embedding.
        init_values: initial LayerScale.
        feature_layers: blocks whose output the heads read, normed, beside the one of the last block inside views.
        photo_sizes: how inference brings a photo to size: 'width', as data sets of training do, or 'longest_side', as the
            original does (`sizes.resize_longest_side`).
        activation_checkpointing, global_attention: as of `jrs.backbones.steps.StepBackbone`.
        lora: `rank`, `alpha` and `dropout` of low-rank adapters on the attention of the blocks from `alt_start` on.
        freeze: `patch_embed` (patches, class token, positions and the blocks before `alt_start`, which see one view) and
            `blocks` (the others, camera token, norm): True keeps them; None = all learn.

    Raises:
        ConfigError: an unknown kind, strategy or rule, or no block that sees all views.
    """

    num_special = 1
    pose_convention = 'cam_from_world, OpenCV axes, world = any frame'
    has_reference_view = False
    weights_licence = 'Apache-2.0 (Small, Base); CC BY-NC 4.0 (Large, Giant); Hugging Face depth-anything/DA3-*'
    official_weights = ('Put the released file there: model.safetensors of https://huggingface.co/depth-anything, DA3-SMALL '
                        'or DA3-BASE (Apache-2.0), DA3-LARGE-1.1 or DA3-GIANT-1.1 (CC BY-NC 4.0). Or name your copy: '
                        '--cfg-options weights=FILE.')
    example = dict(img_size=56, embed_dim=16, depth=6, num_heads=2, feature_layers=(2, 3, 4, 5))

    def __init__(self, img_size: int = 518, patch_size: int = 14, embed_dim: int = 1024, depth: int = 24,
                 num_heads: int = 16, mlp_ratio: float = 4.0, mlp: str = 'gelu', alt_start: int | None = None,
                 reference_view: str = 'saddle_balanced', rope_base: float = 100.0, init_values: float = 1.0,
                 feature_layers: Sequence[int] = (11, 15, 19, 23), photo_sizes: str = 'width',
                 activation_checkpointing: bool | str = False,
                 global_attention: dict | None = None, lora: dict | None = None, freeze: dict | None = None) -> None:
        super().__init__(embed_dim, patch_size, feature_layers, activation_checkpointing, global_attention)
        self.size_rule = f'height and width are multiples of {patch_size}; the released weights know a longest side of 504'
        self.photo_resize = find_named(RULES, photo_sizes, 'rule for the size of photos')
        self.alt_start = depth // 3 if alt_start is None else alt_start
        self.reference_view, self.head_width, self.rope_base = reference_view, embed_dim // num_heads, rope_base
        _check(mlp, reference_view, self.alt_start, depth)
        self.cls_token = nn.Parameter(torch.empty(1, 1, embed_dim))
        self.camera_token = nn.Parameter(torch.empty(1, 2, embed_dim))          # of the reference, of the others
        self.pos_embed = nn.Parameter(torch.empty(1, (img_size // patch_size) ** 2 + 1, embed_dim))
        self.patch_embed = PatchEmbed(patch_size, embed_dim)
        self.blocks = nn.ModuleList(
            Block(embed_dim, num_heads, mlp_ratio, BLOCK_EPS, qk_norm=index >= self.alt_start, init_values=init_values,
                  mlp=MLPS[mlp]) for index in range(depth))
        self.norm = nn.LayerNorm(embed_dim)
        self.register_buffer('image_mean', torch.tensor(IMAGE_MEAN).view(3, 1, 1), persistent=False)
        self.register_buffer('image_std', torch.tensor(IMAGE_STD).view(3, 1, 1), persistent=False)
        self._initialise()
        self.encoder_parts = ('patch_embed', 'cls_token', 'pos_embed', *(f'blocks.{i}' for i in range(self.alt_start)))
        self.lora_targets = rf'blocks\.({"|".join(map(str, range(self.alt_start, depth)))})\.attn\.(qkv|proj)'
        self.complete(lora, freeze)

    def start(self, images: Tensor) -> tuple[State, Layout]:
        """Return the tokens (B, V, 1 + h_p * w_p, C) that enter the first block, and where they stand."""
        layout = Layout.of(images, self.patch_size, front=self.num_special)
        normalised = (images - self.image_mean) / self.image_std
        patches = self.patch_embed(normalised.flatten(0, 1))                    # (B*V, h_p * w_p, C)
        tokens = torch.cat([self.cls_token.expand(len(patches), -1, -1), patches], dim=1)
        tokens = tokens + table_by_factor(self.pos_embed, layout.grid).to(tokens.dtype)
        return State(tokens.unflatten(0, images.shape[:2])), self._turned(layout)

    def steps(self) -> list[Step]:
        """Return all blocks, by their numbers; queries read after those that see all views."""
        return [Step(block, 'scene', 'scene', query=True, number=index) if index >= self.alt_start and index % 2 else
                Step(block, 'view', 'view' if index >= self.alt_start else None, number=index)
                for index, block in enumerate(self.blocks)]

    def before(self, index: int, state: State) -> State:
        """Return the state with the reference first from the block before `alt_start` on, camera tokens from it on."""
        views = state.views                                                     # (B, V, P, C)
        if index == self.alt_start - 1:
            order = order_of_views(views[:, :, 0], self.reference_view)         # (B, V)
            if order is not None:
                return replace(state, views=views.take_along_dim(order[..., None, None], dim=1), order=order)
        if index == self.alt_start:
            others = self.camera_token[:, 1:].expand(-1, views.shape[1] - 1, -1)
            camera = torch.cat([self.camera_token[:, :1], others], dim=1).to(views.dtype)   # (1, V, C)
            camera = camera[:, :, None].expand(len(views), -1, -1, -1)          # (B, V, 1, C)
            return replace(state, views=torch.cat([camera, views[:, :, 1:]], dim=2), kept={'cls': views[:, :, :1]})
        return state

    def after(self, index: int, state: State) -> State:
        """Return the state with what the last block inside views gave as `previous`: `tap` puts that first."""
        step = self.steps()[index]
        if step.scope == 'view':
            return replace(state, previous=state.views)
        if index == self.alt_start:                     # it gave class tokens
            return replace(state, previous=torch.cat([state.kept['cls'], state.previous[:, :, 1:]], dim=2))
        return state

    def finish(self, taps: list[Tensor], state: State, layout: Layout) -> FeatureTaps:
        """Return the taps (B, V, P, 2C), their second half normed; cameras are read from the first token (B, V, 2C) of the
        last one as it was."""
        normed = [torch.cat([tap[..., :self.embed_dim], self.norm(tap[..., self.embed_dim:])], dim=-1) for tap in taps]
        features = super().finish(normed, state, layout)
        features.geometry_tokens = taps[-1][:, :, 0]                            # (B, V, 2C)
        return features

    def _turned(self, layout: Layout) -> Layout:
        """Return the layout with rotations: patches stand on their grid inside views, all at (1, 1) over the scene."""
        alike = replace(layout, positions=layout.positions.clamp(max=1)).turned(self.head_width, self.rope_base)
        inside = layout.turned(self.head_width, self.rope_base)
        return replace(layout, rotations={'view': inside.rotations['view'], 'scene': alike.rotations['scene']})

    @torch.no_grad()
    def _initialise(self) -> None:
        """Fill as for training from scratch; ours."""
        nn.init.normal_(self.cls_token, std=1e-6)
        nn.init.normal_(self.camera_token, std=1e-6)
        nn.init.normal_(self.pos_embed, std=0.02)
        for module in self.blocks.modules():
            if isinstance(module, nn.Linear):
                nn.init.zeros_(module.bias)
        fill_for_scratch(self.blocks, self.pos_embed)


def _check(mlp: str, reference_view: str, alt_start: int, depth: int) -> None:
    for name, value, allowed in (('mlp', mlp, MLPS), ('reference_view', reference_view, STRATEGIES)):
        if value not in allowed:
            raise ConfigError(f'{name} of DepthAnything3 is one of {", ".join(allowed)}, got {value!r}.'
                              f'{did_you_mean(value, allowed)}')
    if not 1 <= alt_start <= depth - 1 - depth % 2:
        raise ConfigError(f'alt_start of DepthAnything3 must be 1 or more, with an odd block at or after it that sees all '
                          f'views; got alt_start={alt_start} with depth={depth} (None = a third of depth).')
