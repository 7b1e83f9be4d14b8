"""The heads of Depth Anything 3: depth from a dense decoder, cameras from one token per view or from a map of rays."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jrs_plugins.depth_anything_3.rays import cameras_from_rays
from torch import Tensor, nn

from jrs.errors import ConfigError, did_you_mean
from jrs.geometry.camera import in_first_frame, rotation_from_quaternion
from jrs.heads.depth import DepthHead
from jrs.layers.dpt import HeadMemory, add_positions
from jrs.registry import HEADS
from jrs.structures import FeatureTaps, Predictions

RAY_CONVOLUTIONS = 5
POSES = ('tokens', 'rays')


class CameraDecoder(nn.Module):
    """One token of width `dim` per view -> the encoding of its camera.

    It starts at cameras that stand in the middle and see one radian: from 0 the last ReLU would never learn (ours).
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.backbone = nn.Sequential(nn.Linear(dim, dim), nn.ReLU(), nn.Linear(dim, dim), nn.ReLU())
        self.fc_t = nn.Linear(dim, 3)
        self.fc_qvec = nn.Linear(dim, 4)
        self.fc_fov = nn.Sequential(nn.Linear(dim, 2), nn.ReLU())
        nn.init.ones_(self.fc_fov[0].bias)
        with torch.no_grad():
            self.fc_qvec.bias[3] = 1

    def forward(self, tokens: Tensor) -> Tensor:
        """Return (B, V, 9) for `tokens` (B, V, dim): translation, quaternion xyzw of any length, vertical and horizontal
        field of view in radians, of `world_from_cam`."""
        hidden = self.backbone(tokens)
        return torch.cat([self.fc_t(hidden), self.fc_qvec(hidden), self.fc_fov(hidden)], dim=-1)


class ChannelNorm(nn.LayerNorm):
    """A layer norm over the channels of maps (n, C, h, w)."""

    def forward(self, maps: Tensor) -> Tensor:
        """Return the normed maps (n, C, h, w)."""
        return super().forward(maps.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class DepthAndRays(DepthHead):
    """The dense decoder with a second chain of fusions on the same branches, which gives the ray of each place.

    Arguments are those of `DepthHead`; residual units have the skip 'plain'.
    """

    def __init__(self, dim_in: int, features: int, out_channels: Sequence[int], views_per_chunk: int,
                 activation_checkpointing: bool) -> None:
        super().__init__(dim_in, features, out_channels, views_per_chunk, activation_checkpointing, skip='plain')
        self.scratch.add_chain('_aux')
        widths = [features, *(features // 2 if index % 2 == 0 else features for index in range(RAY_CONVOLUTIONS))]
        self.scratch.output_conv1_aux = nn.Sequential(
            *(nn.Conv2d(*pair, 3, padding=1) for pair in zip(widths, widths[1:], strict=False)))
        self.scratch.output_conv2_aux = nn.Sequential(
            nn.Conv2d(features // 2, 32, 3, padding=1), nn.Identity(), ChannelNorm(32), nn.Identity(), nn.ReLU(),
            nn.Conv2d(32, 7, 1))                        # numbered as in the released file

    def rays(self, features: FeatureTaps) -> tuple[Tensor, Tensor]:
        """Return rays (B, V, 8 h_p, 8 w_p, 6), direction (of any length) and origin, in the world of the cameras, and their
        confidence > 1 (B, V, 8 h_p, 8 w_p)."""
        def finish(branches: list[Tensor]) -> Tensor:
            maps = self.scratch.output_conv1_aux(self.scratch.fuse(branches, '_aux'))       # (n, F/2, 8 h_p, 8 w_p)
            return self.scratch.output_conv2_aux(add_positions(maps, features.image_size))
        values = self.read(features, finish).movedim(2, -1)                     # (B, V, 8 h_p, 8 w_p, 7)
        return values[..., :6], 1 + values[..., 6].exp()

    def memory(self, views: int, size: tuple[int, int], device: torch.device) -> HeadMemory:
        """Return what both chains need, one after the other."""
        one = super().memory(views, size, device)
        return HeadMemory(one.chunk, 2 * one.saved, one.recomputed_views)


@HEADS.register_module()
class DepthAnything3Geometry(nn.Module):
    """Cameras, depth and confidence of Depth Anything 3 (backbones.md section 6.1), in our conventions; float32.

    A part of `model.geometry_head`. The released file also has a chain for rays, which `DepthAnything3Rays` builds.

    Args:
        dim_in: width of the taps and of the camera token, the backbone's `feature_dim`.
        features: width F of the fusion, a multiple of 8.
        out_channels: widths of the four branches, finest first, each a multiple of 4.
        views_per_chunk: views that are decoded at a time, at most.
        activation_checkpointing: in training, recompute every chunk in the backward pass.
    """

    example = dict(features=16, out_channels=(8, 8, 16, 16))

    def __init__(self, dim_in: int, features: int = 256, out_channels: Sequence[int] = (256, 512, 1024, 1024),
                 views_per_chunk: int = 8, activation_checkpointing: bool = False) -> None:
        super().__init__()
        self.head = self.make_decoder(dim_in, features, out_channels, views_per_chunk, activation_checkpointing)
        self.cam_dec = CameraDecoder(dim_in)

    @staticmethod
    def make_decoder(dim_in: int, features: int, out_channels: Sequence[int], views_per_chunk: int,
                     activation_checkpointing: bool) -> DepthHead:
        """Return the dense decoder."""
        return DepthHead(dim_in, features, out_channels, views_per_chunk, activation_checkpointing, skip='plain')

    def forward(self, features: FeatureTaps) -> Predictions:
        """Return one stage of pose encodings (B, V, 9), z-depth > 0 and confidence > 1, (B, V, H, W) each.

        Reads four taps (B, V, P, dim_in) and `geometry_tokens` (B, V, dim_in). The world of the encodings is any frame.

        Raises:
            ValueError: the backbone leaves no geometry tokens.
        """
        if features.geometry_tokens is None:
            raise ValueError(f'{type(self).__name__} reads cameras from geometry tokens (B, V, dim_in), and this backbone '
                             'leaves None; use it with DepthAnything3.')
        with torch.autocast(features.geometry_tokens.device.type, enabled=False):
            encoding = invert_encoding(self.cam_dec(features.geometry_tokens.float()))
        return Predictions([encoding], *self.head(features))

    def memory(self, views: int, size: tuple[int, int], device: torch.device) -> HeadMemory:
        """Return what the dense decoder needs for `views` views of (H, W) = `size`."""
        return self.head.memory(views, size, device)


@HEADS.register_module()
class DepthAnything3Rays(DepthAnything3Geometry):
    """`DepthAnything3Geometry` with the map of rays, and on demand the cameras that follow from it.

    `extras` have `ray_directions` and `ray_origins` (B, V, 8 h_p, 8 w_p, 3) in the frame of the first camera, directions of
    any length, and `ray_confidence` > 1 (B, V, 8 h_p, 8 w_p). None of our losses reads them.

    Args:
        dim_in, features, out_channels, views_per_chunk, activation_checkpointing: as of `DepthAnything3Geometry`.
        poses: where cameras come from: 'tokens', the camera decoder, or 'rays' (slower; focal lengths and principal point of
            their own), which is for inference.

    Raises:
        ConfigError: another word for `poses`.
    """

    def __init__(self, dim_in: int, features: int = 256, out_channels: Sequence[int] = (256, 512, 1024, 1024),
                 views_per_chunk: int = 8, activation_checkpointing: bool = False, poses: str = 'tokens') -> None:
        super().__init__(dim_in, features, out_channels, views_per_chunk, activation_checkpointing)
        if poses not in POSES:
            raise ConfigError(f'poses of DepthAnything3Rays is one of {", ".join(POSES)}, got {poses!r}.'
                              f'{did_you_mean(poses, POSES)}')
        self.poses = poses

    @staticmethod
    def make_decoder(dim_in: int, features: int, out_channels: Sequence[int], views_per_chunk: int,
                     activation_checkpointing: bool) -> DepthAndRays:
        """Return the dense decoder with both chains."""
        return DepthAndRays(dim_in, features, out_channels, views_per_chunk, activation_checkpointing)

    def forward(self, features: FeatureTaps) -> Predictions:
        """Return what `DepthAnything3Geometry` does, `extras`, and with poses='rays' intrinsics (B, V, 3, 3).

        Raises:
            ConfigError: poses='rays' in training.
        """
        if self.poses == 'rays' and self.training:
            raise ConfigError("DepthAnything3Rays(poses='rays') is for inference: nothing is learned through the search for "
                              "cameras. Train with poses='tokens'.")
        found = super().forward(features)
        rays, confidence = self.head.rays(features)
        if self.poses == 'rays':
            cameras = cameras_from_rays(rays.flatten(0, 1), confidence.flatten(0, 1))
            found.pose_encodings = [cameras.encoding().unflatten(0, rays.shape[:2]).to(rays)]
            found.intrinsics = cameras.intrinsics(features.image_size).unflatten(0, rays.shape[:2]).to(rays)
        encoding = found.pose_encodings[-1]
        still = torch.cat([torch.zeros_like(encoding[..., :3]), encoding[..., 3:]], dim=-1)
        found.extras = {'ray_directions': in_first_frame(rays[..., :3], still),
                        'ray_origins': in_first_frame(rays[..., 3:], encoding), 'ray_confidence': confidence}
        return found


def invert_encoding(encoding: Tensor) -> Tensor:
    """Return pose encodings (B, V, 9) of `cam_from_world` for those of `world_from_cam`, or the other way round.

    The quaternion keeps its length, which may be any.
    """
    translation, vector, rest = encoding[..., :3], encoding[..., 3:6], encoding[..., 6:]
    rotation = rotation_from_quaternion(encoding[..., 3:7])                     # (B, V, 3, 3)
    moved = -(rotation.mT @ translation[..., None]).squeeze(-1)
    return torch.cat([moved, -vector, rest], dim=-1)
