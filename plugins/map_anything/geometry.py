"""MapAnything's own heads: rays, depth along them, confidence and validity; a camera per view; one scale per scene."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from jrs_plugins.map_anything.backbone import ENCODED
from torch import Tensor, nn
from torch.nn import functional as F

from jrs.geometry.camera import encode_cameras, invert_rigid, pinhole_of_rays
from jrs.heads.pose import PoseHead, TokenConv
from jrs.heads.scale import ScaleHead
from jrs.layers.dpt import DenseDecoder
from jrs.registry import HEADS
from jrs.structures import FeatureTaps, Predictions

CHANNELS = 6                                   # ray (3), log depth along it, logits of confidence and validity


@HEADS.register_module()
class MapAnythingGeometry(DenseDecoder):
    """Cameras, depth and confidence as MapAnything predicts them (backbones.md section 3), in our conventions; float32.

    A part of `model.geometry_head`, of a backbone that leaves a token for the scale and four taps. `world_from_cam` leaves
    as `cam_from_world`; depth along a ray as z-depth; intrinsics are those of the pinhole nearest to the rays. Depth and
    translations are in metres. Extras: unit `rays` (B, V, H, W, 3), `validity_logits` (B, V, H, W) and `metric_scale` (B,),
    metres per unit of what was read from the views.

    Args:
        dim_in: width of the taps, the backbone's `feature_dim`.
        features, out_channels, views_per_chunk, activation_checkpointing: as of `jrs.layers.dpt.DenseFusion`.
        pose_dim: width of the MLPs of the camera.
        scale_dim: of the scale.
    """

    def __init__(self, dim_in: int, features: int = 256, out_channels: Sequence[int] = (96, 192, 384, 768),
                 pose_dim: int = 784, scale_dim: int = 196, views_per_chunk: int = 8,
                 activation_checkpointing: bool = False) -> None:
        super().__init__(dim_in, features, out_channels, views_per_chunk, activation_checkpointing, norm=False,
                         positions=False, skip='plain', growth='double')
        width = features // 2
        self.scratch.output_conv2 = nn.Sequential(nn.Conv2d(width, width, 3, padding=1), nn.ReLU(),
                                                  nn.Conv2d(width, CHANNELS, 1))
        with torch.no_grad():
            self.scratch.output_conv2[2].bias[2] = 1.0                          # a fresh head looks forward (ours)
        self.pose_head = PoseHead(pose_dim, dim_in, 'quaternion', TokenConv)
        self.scale_head = ScaleHead(dim_in, scale_dim)

    def forward(self, features: FeatureTaps) -> Predictions:
        """Return one stage of pose encodings (B, V, 9), intrinsics, z-depth, confidence > 1 (B, V, H, W) and extras.

        Reads four taps (B, V, P, dim_in): a map of each, a camera of the last; and the first token of no view.
        """
        scale = self.scale_head(features)                                       # (B,)
        maps = self.decode(features, self.scratch.output_conv2)                 # (B, V, 6, H, W)
        ray, log_depth, confidence, validity = maps.split([3, 1, 1, 1], dim=2)
        rays = F.normalize(ray, dim=2, eps=1e-8)
        along = scale[:, None, None, None] * log_depth[:, :, 0].exp()           # (B, V, H, W)
        intrinsics = pinhole_of_rays(rays.movedim(2, -1))                       # (B, V, 3, 3)
        cam_from_world = self._cameras(features, scale)
        encoding = encode_cameras(cam_from_world, intrinsics, features.image_size)
        return Predictions([encoding], along * rays[:, :, 2], 1 + confidence[:, :, 0].exp(), intrinsics=intrinsics,
                           extras={'rays': rays.movedim(2, -1), 'validity_logits': validity[:, :, 0],
                                   'metric_scale': scale})

    def _cameras(self, features: FeatureTaps, scale: Tensor) -> Tensor:
        """Return `cam_from_world` (B, V, 4, 4), in metres with a `scale` (B,)."""
        patches = features.taps[-1][:, :, features.patch_index]                 # (B, V, h_p * w_p, dim_in)
        with torch.autocast(patches.device.type, enabled=False):
            world_from_cam = self.pose_head(patches.float().flatten(0, 1)).unflatten(0, patches.shape[:2])
        turned, moved = world_from_cam[..., :3], world_from_cam[..., 3:]
        metres = torch.cat([scale[:, None, None].expand(-1, 3, 1), scale.new_ones(len(scale), 1, 1)], dim=1)[:, None]
        return invert_rigid(torch.cat([turned, moved * metres], dim=-1))


@HEADS.register_module()
class MapAnythingV1Geometry(MapAnythingGeometry):
    """`MapAnythingGeometry` of V1, whose first branch reads the encoder's patches as they are, wider than the taps.

    Args:
        dim_in: width of the taps, the backbone's `feature_dim`.
        encoder_dim: width of the map 'encoder_patches', which takes the place of the first tap.
        features, out_channels, views_per_chunk, activation_checkpointing: as of `jrs.layers.dpt.DenseFusion`.
        pose_dim, scale_dim: as of `MapAnythingGeometry`.
    """

    reads = (ENCODED,)

    def __init__(self, dim_in: int, encoder_dim: int = 1024, features: int = 256,
                 out_channels: Sequence[int] = (96, 192, 384, 768), pose_dim: int = 784, scale_dim: int = 196,
                 views_per_chunk: int = 8, activation_checkpointing: bool = False) -> None:
        super().__init__(dim_in, features, out_channels, pose_dim, scale_dim, views_per_chunk, activation_checkpointing)
        self.encoder_dim = encoder_dim
        self.projects[0] = nn.Conv2d(encoder_dim, out_channels[0], 1)

    def map_shapes(self, grid: tuple[int, int]) -> dict[str, tuple[int, int]]:
        """Return the shape behind (B, V) of the map that it reads, for a patch grid (h_p, w_p)."""
        return {ENCODED: (grid[0] * grid[1], self.encoder_dim)}

    def forward(self, features: FeatureTaps) -> Predictions:
        """Return what `MapAnythingGeometry` does, of 'encoder_patches' (B, V, h_p * w_p, encoder_dim) and the last three of
        four taps."""
        taps = [features.maps[ENCODED], *features.taps[1:]]
        return super().forward(replace(features, taps=taps, tap_grids=[features.patch_grid] + [None] * 3))
