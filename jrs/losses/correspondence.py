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
from jrs.registry import PRETEXTS
from jrs.structures import GeometryTargets

REACH = 0.25                                   # of an image's size beyond its border, where a displacement is still told
DEPTH_TOLERANCE = 0.1                          # relative: a point is seen where its depth agrees with the view's
LOWEST = -1e9                                  # finite, so that a row without a match has a finite gradient


@PRETEXTS.register_module()
class Correspondence(nn.Module):
    """Training terms that teach the global attention of an alternating backbone to find correspondences.

    - `matching`: -log of the attention that the first heads of some global blocks pay, from a patch, to those patches of
      other views which see the same point; patches that no other view sees do not count.
    - `displacement`: distance (L1, patches) between where a patch's point lies in the first view and where it lies in its
      own, read from its token after some layers.
    - `patch_points`: distance (L1, scene units) to the point itself in the frame of the first camera, from the last tap.

    Args:
        dim, dim_in: width of the tokens and of the taps.
        num_layers: pairs of blocks of the backbone.
        patch_size: side of a patch in pixels.
        matching_layers: global blocks whose attention is supervised.
        matching_heads: heads of each, the first ones; the others are free.
        displacement_layers: layers after which the displacement is read.
        matching_weight, displacement_weight, points_weight: factors of the terms.
        sharpness: initial weight of the norm of the queries in frame and global attention. Narrow heads need more than 1:
            their logits are bounded by the root of their width.

    Raises:
        ConfigError: a layer that does not exist.
    """

    def __init__(self, dim: int, dim_in: int, num_layers: int, patch_size: int, matching_layers: Sequence[int] = (2, 3),
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
        self.patch_points = _small_head(dim_in, 3)

    def prepare(self, backbone: nn.Module) -> None:
        """Sharpen the attention of a new backbone.

        Raises:
            ConfigError: a backbone that would run its blocks again in the backward pass.
        """
        if backbone.activation_checkpointing:
            raise ConfigError('Correspondence reads what blocks see, once: set '
                              'model.backbone.activation_checkpointing=False.')
        for layer in range(self.last + 1):
            for block in backbone.pair(layer):
                nn.init.constant_(block.attn.q_norm.weight, self.sharpness)

    @contextmanager
    def watching(self, backbone: nn.Module) -> Iterator[dict]:
        """Note what goes into and comes out of global blocks of the forward passes inside; the notes are for `forward`."""
        notes: dict = dict(num_special=backbone.num_special)

        def inputs(layer: int):
            return lambda block, args: notes.update({f'block {layer}': block, f'in {layer}': args})

        def outputs(layer: int):
            return lambda block, args, output: notes.update({f'out {layer}': output})
        handles = [backbone.pair(layer)[1].register_forward_pre_hook(inputs(layer))
                   for layer in {*self.matching_layers, self.last}]
        handles += [backbone.pair(layer)[1].register_forward_hook(outputs(layer))
                    for layer in {*self.displacement_layers, self.last}]
        try:
            yield notes
        finally:
            for handle in handles:
                handle.remove()

    def forward(self, notes: dict, geometry: GeometryTargets) -> dict[str, Tensor]:
        """Return the weighted terms as ``loss_<name>``, scalars, of a pass that was watched.

        Args:
            notes: of `watching`.
            geometry: true geometry of B scenes with V views.
        """
        with torch.autocast(geometry.depth.device.type, enabled=False):
            return {f'loss_{name}': self.factors[name] * value for name, value in self._terms(notes, geometry).items()}

    def _terms(self, notes: dict, geometry: GeometryTargets) -> dict[str, Tensor]:
        num_scenes, num_views = geometry.depth.shape[:2]
        special = notes['num_special']
        points, known = patch_points(geometry, self.patch_size)                             # (B, V, n, 3), (B, V, n)
        pixels, matches = patch_matches(geometry, points, known, self.patch_size)
        wanted, told = displacements(pixels, known, geometry.depth.shape[-2:], self.patch_size)

        def patches(tokens: Tensor) -> Tensor:
            return tokens.view(num_scenes, num_views, -1, tokens.shape[-1])[:, :, special:].float()     # (B, V, n, C)
        matching = [matching_term(self._log_attention(notes[f'block {layer}'], *notes[f'in {layer}'], num_views), matches,
                                  special) for layer in self.matching_layers]
        shift = torch.stack([self.get_submodule(f'displacement_{layer}')(patches(notes[f'out {layer}']))
                             for layer in self.displacement_layers])                        # (L, B, V, n, 2)
        tap = torch.cat([patches(notes[f'in {self.last}'][0]), patches(notes[f'out {self.last}'])], dim=-1)
        found = self.patch_points(tap)                                                      # (B, V, n, 3)
        return {'matching': torch.stack(matching).mean(),
                'displacement': _mean((shift - wanted).abs().sum(-1), told.expand(len(shift), -1, -1, -1)),
                'patch_points': _mean((found - points).abs().sum(-1), known)}

    def _log_attention(self, block: nn.Module, tokens: Tensor, rope, num_views: int) -> Tensor:
        """Return the log attention (B, heads, V, P, V, P) that supervised heads of a global block pay, token to token."""
        query, key, _ = (part[:, :self.matching_heads].float() for part in block.attn.project(block.norm1(tokens), rope))
        logits = query @ key.mT * query.shape[-1] ** -0.5                                   # (B, heads, T, T)
        return logits.log_softmax(-1).unflatten(-1, (num_views, -1)).unflatten(2, (num_views, -1))


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


def matching_term(log_attention: Tensor, matches: Tensor, num_special: int) -> Tensor:
    """Return -log of the attention that patches pay to their matches in other views, mean over patches that have any.

    Args:
        log_attention: (B, heads, V, P, V, P), each row of the last two axes sums to 1 after exp.
        matches: (B, V, n, V), number of the matching patch or -1.
        num_special: tokens in front of the patches of a view, P - n.
    """
    rows = log_attention[:, :, :, num_special:]                                             # (B, heads, V, n, V, P)
    index = (matches.clamp_min(0) + num_special)[:, None, ..., None].expand(-1, rows.shape[1], -1, -1, -1, -1)
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
    limit = pixels.new_tensor([size[1], size[0]])                                           # (2,)
    views = torch.arange(pixels.shape[1], device=pixels.device)
    first, own = pixels[:, :, :, 0], pixels[:, views, :, views].movedim(0, 1)               # (B, V, n, 2) each
    told = known & ((first > -REACH * limit) & (first < (1 + REACH) * limit)).all(-1)
    told = told & (views > 0)[:, None]
    return ((first - own) / patch_size).nan_to_num(0.0), told




def _mean(values: Tensor, counted: Tensor) -> Tensor:
    return (values * counted).sum() / counted.sum().clamp_min(1)


def _small_head(width: int, outputs: int) -> nn.Module:
    return nn.Sequential(nn.LayerNorm(width), nn.Linear(width, 64), nn.GELU(), nn.Linear(64, outputs))
