"""Pi3X: Pi3's pairs of attention, told known depth, intrinsics and cameras where there are any."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from jrs_plugins.pi3x.injection import PoseInjection
from jrs_plugins.pi3x.known import Known, known_geometry
from torch import Tensor, nn

from jrs.backbones.equal_views import EqualViews
from jrs.errors import ConfigError
from jrs.layers.layout import Layout, State
from jrs.layers.vit import PatchEmbed
from jrs.registry import BACKBONES
from jrs.structures import Priors


@BACKBONES.register_module()
class Pi3X(EqualViews):
    """The encoder and decoder of Pi3X (backbones.md section 1), and its conditioning modules where it shall take priors.

    Known depth and rays are added to the patch tokens of their views before the registers join them; known cameras are
    injected into the patch tokens after some blocks of the decoder. Queries and taps read what comes out of that. Priors are
    for inference: no training gives any, so the conditioning modules keep what they are loaded with.

    Args:
        inject_after: blocks of `decoder`, all odd, after which cameras are injected, `pose_inject_blk.0, 1, ...`; the
            released model has (1, 9, 17, 25, 33). None = no conditioning modules: images alone are read.
        options: all other arguments are those of `EqualViews`, with the same defaults.

    Raises:
        ConfigError: `inject_after` names what is no block over the scene.
    """

    scale = 'metric, approximate'
    weights_licence = 'CC BY-NC 4.0 (Hugging Face yyfz233/Pi3X)'
    official_weights = ('Put the released Pi3X there: model.safetensors (CC BY-NC 4.0) from '
                        'https://huggingface.co/yyfz233/Pi3X. Or name your copy: --cfg-options weights=FILE.')

    def __init__(self, inject_after: Sequence[int] | None = None, **options) -> None:
        super().__init__(**options)
        self.takes_priors = inject_after is not None
        self.inject_after = tuple(inject_after or ())
        allowed = range(1, len(self.decoder), 2)
        if not set(self.inject_after) <= set(allowed) or len(set(self.inject_after)) < len(self.inject_after):
            raise ConfigError(f'inject_after of Pi3X names blocks over the scene, different ones of {list(allowed)}, got '
                              f'{list(self.inject_after)}. Pi3X as released has (1, 9, 17, 25, 33) and depth=18.')
        if self.takes_priors:
            self._add_conditioning()

    def start(self, images: Tensor, seen: int = 0, priors: Priors | None = None) -> tuple[State, Layout]:
        """Return the tokens (B, V, P, C) that enter the first pair, and their places, as `EqualViews.start` does.

        Raises:
            DataError: priors, and there are no conditioning modules; or a prior of another shape.
        """
        patches = self.encode(images)                                           # (B, V, h_p * w_p, C)
        if priors is None:
            return self.with_registers(patches, images, seen)
        with torch.autocast(images.device.type, enabled=False):
            known = known_geometry(priors, images)
        state, layout = self.with_registers(self.add_known(patches, known), images, seen)
        if known.posed is None:
            return state, layout
        places = layout.positions[layout.patch_index]                           # (h_p * w_p, 2)
        return replace(state, kept={'cam_from_reference': known.cam_from_reference, 'posed': known.posed, 'places': places,
                                    'patch_index': layout.patch_index}), layout

    def add_known(self, patches: Tensor, known: Known) -> Tensor:
        """Return the patch tokens (B, V, h_p * w_p, C), embeddings of depth and rays added in the views that have them."""
        for maps, used, embed in ((known.depth, known.depth_views, self._embed_depth),
                                  (known.rays, known.ray_views, self.ray_embed)):
            if maps is not None and used.any():
                found = embed(maps[used])                                       # (n, h_p * w_p, C)
                patches = patches.index_put(used.nonzero(as_tuple=True), found.to(patches.dtype), accumulate=True)
        return patches

    def after(self, index: int, state: State) -> State:
        """Return the state with known cameras injected into the patch tokens of their views."""
        if index not in self.inject_after or 'posed' not in state.kept:
            return state
        kept, block = state.kept, self.pose_inject_blk[self.inject_after.index(index)]
        views = [self._injected(block, tokens, kept, scene) for scene, tokens in enumerate(state.views)]
        return replace(state, views=torch.stack(views))                         # (B, V, P, C)

    def _injected(self, block: PoseInjection, tokens: Tensor, kept: dict[str, Tensor], scene: int) -> Tensor:
        """Return the tokens (V, P, C) of a scene with `block` run over the patches of the views that have a camera."""
        views = kept['posed'][scene].nonzero().flatten()                        # (n,)
        if not len(views):
            return tokens
        patches = tokens[views][:, kept['patch_index']]                         # (n, h_p * w_p, C)
        change = block.change(patches, kept['cam_from_reference'][scene, views], kept['places'])
        return tokens.index_put((views[:, None], kept['patch_index']), change.to(tokens.dtype), accumulate=True)

    def _embed_depth(self, maps: Tensor) -> Tensor:
        return self.depth_encoder(maps) + self.depth_emb

    def _add_conditioning(self) -> None:
        own = set(self.parameters())
        self.depth_encoder = self.make_encoder(in_channels=2)
        self.depth_emb = nn.Parameter(1e-6 * torch.randn(1, 1, self.embed_dim))
        self.ray_embed = PatchEmbed(self.patch_size, self.embed_dim, in_channels=2)
        self.pose_inject_blk = nn.ModuleList(self.make_block(PoseInjection) for _ in self.inject_after)
        for value in set(self.parameters()) - own:
            value.requires_grad_(False)
