"""Pre-training of geometry from scratch: patches are told where in the other views their points are seen.

A small VGGT that only cameras and depth supervise does not leave the identity rotation within hours of CPU time: nothing
tells it to compare views. Here three terms do, from true geometry, at patch resolution; all are ours. What was tried
without them stands in docs/rooms.md.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from jrs.errors import ConfigError
from jrs.geometry.camera import decode_cameras
from jrs.geometry.projection import project_points
from jrs.layers.layout import WatchedStep
from jrs.registry import PRETEXTS
from jrs.structures import GeometryTargets

REACH = 0.25                                   # of an image's size beyond its border, where a displacement is still told
DEPTH_TOLERANCE = 0.1                          # relative: a point is seen where its depth agrees with the view's
LOWEST = -1e9                                  # finite, so that a row without a match has a finite gradient


@PRETEXTS.register_module()
class Correspondence(nn.Module):
    """Training terms that teach a backbone made of steps to find correspondences by its attention across views.

    - `matching`: -log of the attention that the first heads of some blocks across views pay, from a patch, to those patches
      of other views which see the same point; patches that no other view sees do not count. At a query layer that block is
      the last one across views before the queries read; its rotary embedding must be the same in all views.
    - `displacement`: distance (L1, patches) between where a patch's point lies in the first view and where it lies in its
      own, read from its token after some layers.
    - `patch_points`: distance (L1, scene units) to the point itself in the frame of the first camera, from what goes
      into the last block across views and what comes out, side by side.

    Args:
        dim: width of the tokens.
        num_layers: query layers of the backbone.
        patch_size: side of a patch in pixels.
        matching_layers: query layers whose attention across views is supervised.
        matching_heads: heads of each, the first ones; the others are free.
        displacement_layers: query layers after which the displacement is read.
        matching_weight, displacement_weight, points_weight: factors of the terms.
        sharpness: initial factor of the queries in the attention of all steps: weight of their norm, or where there is none
            of what makes them. Narrow heads need more than 1: their logits are bounded by the root of their width.

    Raises:
        ConfigError: a layer that does not exist.
    """

    def __init__(self, dim: int, num_layers: int, patch_size: int, matching_layers: Sequence[int] = (2, 3),
                 matching_heads: int = 1, displacement_layers: Sequence[int] = (3, 5, 7), matching_weight: float = 0.6,
                 displacement_weight: float = 0.5, points_weight: float = 0.3, sharpness: float = 2.0) -> None:
        super().__init__()
        if not all(0 <= layer < num_layers for layer in (*matching_layers, *displacement_layers)):
            raise ConfigError(f'matching_layers {tuple(matching_layers)} and displacement_layers '
                              f'{tuple(displacement_layers)} must be layers of the backbone, 0 .. {num_layers - 1}.')
        self.patch_size, self.last = patch_size, num_layers - 1
        self.matching_layers, self.matching_heads = tuple(matching_layers), matching_heads
        self.displacement_layers = tuple(displacement_layers)
        self.factors = {'matching': matching_weight, 'displacement': displacement_weight, 'patch_points': points_weight}
        self.sharpness = sharpness
        for layer in displacement_layers:
            self.add_module(f'displacement_{layer}', _small_head(dim, 2))
        self.patch_points = _small_head(2 * dim, 3)

    def prepare(self, backbone: nn.Module) -> None:
        """Sharpen the attention of a new backbone.

        Raises:
            ConfigError: a backbone that is not made of steps, or would run its blocks again in the backward pass.
        """
        if not hasattr(backbone, 'watching'):
            raise ConfigError(f'Correspondence reads what the steps of a backbone see, and {type(backbone).__name__} is not '
                              'made of steps (jrs.backbones.steps.StepBackbone): set model.pretext=None.')
        if backbone.activation_checkpointing:
            raise ConfigError('Correspondence reads what blocks see, once: set '
                              'model.backbone.activation_checkpointing=False.')
        for step in backbone.steps():
            _sharpen(step.block.attn, self.sharpness)

    @contextmanager
    def watching(self, backbone: nn.Module) -> Iterator[dict]:
        """Note what goes into and comes out of steps of the forward passes inside; the notes are for `forward`."""
        layers = {*self.matching_layers, *self.displacement_layers, self.last}
        indices = {layer: backbone.query_step(layer) for layer in layers}
        steps = backbone.steps()
        notes: dict = dict(blocks={layer: steps[index].block for layer, index in indices.items()})
        with backbone.watching(list(indices.values())) as watched:
            yield notes
            notes['steps'] = {layer: watched[index] for layer, index in indices.items()}

    def forward(self, notes: dict, geometry: GeometryTargets) -> dict[str, Tensor]:
        """Return the weighted terms as ``loss_<name>``, scalars, of a pass that was watched.

        Args:
            notes: of `watching`.
            geometry: true geometry of B scenes with V views.
        """
        with torch.autocast(geometry.depth.device.type, enabled=False):
            return {f'loss_{name}': self.factors[name] * value for name, value in self._terms(notes, geometry).items()}

    def _terms(self, notes: dict, geometry: GeometryTargets) -> dict[str, Tensor]:
        steps = notes['steps']
        patch_index = steps[self.last].layout.patch_index
        points, known = patch_points(geometry, self.patch_size)                             # (B, V, n, 3), (B, V, n)
        pixels, matches = patch_matches(geometry, points, known, self.patch_size)
        wanted, told = displacements(pixels, known, geometry.depth.shape[-2:], self.patch_size)

        def patches(step: WatchedStep, tokens: Tensor) -> Tensor:
            return step.by_view(tokens)[:, :, patch_index].float()                          # (B, V, n, C)
        matching = [matching_term(self._log_attention(notes['blocks'][layer], steps[layer]), matches, patch_index)
                    for layer in self.matching_layers]
        shift = torch.stack([self.get_submodule(f'displacement_{layer}')(patches(steps[layer], steps[layer].given))
                             for layer in self.displacement_layers])                        # (L, B, V, n, 2)
        last = steps[self.last]
        tap = torch.cat([patches(last, last.seen), patches(last, last.given)], dim=-1)      # (B, V, n, 2C)
        found = self.patch_points(tap)                                                      # (B, V, n, 3)
        return {'matching': torch.stack(matching).mean(),
                'displacement': _mean((shift - wanted).abs().sum(-1), told.expand(len(shift), -1, -1, -1)),
                'patch_points': _mean((found - points).abs().sum(-1), known)}

    def _log_attention(self, block: nn.Module, step: WatchedStep) -> Tensor:
        """Return the log attention (B, heads, V, P, V, P) that supervised heads of a block pay, token to token."""
        layout = step.layout
        query, key, _ = (part[:, :self.matching_heads].float()
                         for part in block.attn.project(block.norm1(step.seen), step.rope))
        logits = query @ key.mT * query.shape[-1] ** -0.5                                   # (B, heads, T, T)
        count = layout.num_views * layout.num_tokens
        attention = logits.log_softmax(-1)[:, :, :count, :count]
        return attention.unflatten(-1, (layout.num_views, -1)).unflatten(2, (layout.num_views, -1))


def patch_points(geometry: GeometryTargets, patch_size: int) -> tuple[Tensor, Tensor]:
    """Return the points (B, V, n, 3) that the middle pixels of patches see, and which are known (B, V, n), row-major."""
    middles = (..., slice(patch_size // 2, None, patch_size), slice(patch_size // 2, None, patch_size))
    points = geometry.points.movedim(-1, 2)[middles].flatten(-2).mT                         # (B, V, n, 3)
    return points, geometry.valid[middles].flatten(-2)


def patch_matches(geometry: GeometryTargets, points: Tensor, known: Tensor, patch_size: int) -> tuple[Tensor, Tensor]:
    """Say where the points of patches lie in all views of their scene.

    Args:
        geometry: of B scenes with V views.
        points, known: (B, V, n, 3) and (B, V, n), of `patch_points`.
        patch_size: side of a patch in pixels.

    Returns:
        pixels (B, V, n, V, 2), (u, v) of each point in each view, NaN behind it; and the number of the patch of that view
        which sees the point (B, V, n, V) int64, -1 where none does, and in the patch's own view.
    """
    num_scenes, num_views = points.shape[:2]
    height, width = geometry.depth.shape[-2:]
    cam_from_world, intrinsics = decode_cameras(geometry.pose_encoding, (height, width))
    everywhere = points.flatten(1, 2)[:, None].expand(-1, num_views, -1, -1)                # (B, V, V*n, 3)
    pixels, z = project_points(everywhere, intrinsics, cam_from_world)                      # (B, V, V*n, 2), (B, V, V*n)
    column, row = pixels.round().long().unbind(-1)
    inside = (z > 0) & (column >= 0) & (column < width) & (row >= 0) & (row < height)
    place = row.clamp(0, height - 1) * width + column.clamp(0, width - 1)
    there = geometry.depth.flatten(2).gather(2, place)                                      # (B, V, V*n)
    seen = inside & ((there - z).abs() < DEPTH_TOLERANCE * z) & known.flatten(1)[:, None]
    patch = row.clamp(0, height - 1) // patch_size * (width // patch_size) + column.clamp(0, width - 1) // patch_size

    def by_patch(values: Tensor) -> Tensor:
        return values.unflatten(2, (num_views, -1)).movedim(1, 3)                           # (B, V, n, V, …)
    own = torch.eye(num_views, dtype=torch.bool, device=points.device)[:, None]             # (V, 1, V)
    matches = by_patch(patch.where(seen, -1)).masked_fill(own, -1)
    return by_patch(pixels.where(z[..., None] > 0, torch.nan)), matches


def matching_term(log_attention: Tensor, matches: Tensor, patch_index: Tensor) -> Tensor:
    """Return -log of the attention that patches pay to their matches in other views, mean over patches that have any.

    Args:
        log_attention: (B, heads, V, P, V, P), each row of the last two axes sums to 1 after exp.
        matches: (B, V, n, V), number of the matching patch or -1.
        patch_index: (n,) int64, where the patches stand among the P tokens of a view.
    """
    rows = log_attention[:, :, :, patch_index]                                              # (B, heads, V, n, V, P)
    index = patch_index[matches.clamp_min(0)][:, None, ..., None].expand(-1, rows.shape[1], -1, -1, -1, -1)
    paid = rows.gather(-1, index).squeeze(-1).masked_fill(matches[:, None] < 0, LOWEST).logsumexp(-1)  # (B, heads, V, n)
    return _mean(-paid, (matches >= 0).any(-1)[:, None].expand_as(paid))


def displacements(pixels: Tensor, known: Tensor, size: tuple[int, int], patch_size: int) -> tuple[Tensor, Tensor]:
    """Return by how many patches (x, y) points lie elsewhere in the first view than in their own, (B, V, n, 2), and where
    that is told, (B, V, n): for known points of the other views that lie within or not far beyond the first view's borders.

    Args:
        pixels: (B, V, n, V, 2) of `patch_matches`.
        known: (B, V, n).
        size: (H, W) of the images.
        patch_size: side of a patch in pixels.
    """
    views = torch.arange(pixels.shape[1], device=pixels.device)
    first, own = pixels[:, :, :, 0], pixels[:, views, :, views].movedim(0, 1)               # (B, V, n, 2) each
    near = [(place > -REACH * side) & (place < (1 + REACH) * side)                          # (B, V, n) each
            for place, side in zip(first.unbind(-1), size[::-1], strict=True)]
    told = known & near[0] & near[1]
    told = told & (views > 0)[:, None]
    return ((first - own) / patch_size).nan_to_num(0.0), told


def _sharpen(attention: nn.Module, factor: float) -> None:
    """Make the logits of a new `SelfAttention` larger by `factor`."""
    if isinstance(attention.q_norm, nn.LayerNorm):
        nn.init.constant_(attention.q_norm.weight, factor)
        return
    with torch.no_grad():
        for values in (attention.qkv.weight, attention.qkv.bias):
            values[:len(values) // 3] *= factor                                             # the queries' third


def _mean(values: Tensor, counted: Tensor) -> Tensor:
    return (values * counted).sum() / counted.sum().clamp_min(1)


def _small_head(width: int, outputs: int) -> nn.Module:
    return nn.Sequential(nn.LayerNorm(width), nn.Linear(width, 64), nn.GELU(), nn.Linear(64, outputs))
