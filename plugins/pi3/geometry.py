"""Pi3's own heads: cameras, depth and confidence, each view read by itself from the last tap."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from jrs.geometry.camera import invert_rigid, quaternion_from_rotation
from jrs.heads.pose import PoseHead
from jrs.layers.block import Block
from jrs.layers.rope import GridRotation, patch_positions
from jrs.registry import HEADS
from jrs.structures import FeatureTaps, Predictions

HEAD_WIDTH = 64                                # 16 heads of it in the released model
NORM_EPS = 1e-6


class ViewDecoder(nn.Module):
    """A linear map, transformer blocks inside each view, a linear map (backbones.md section 1, "Heads, Pi3").

    Args:
        dim_in: width of the tokens.
        dim: width in between.
        out_dim: width of the result.
        depth: number of blocks.
        num_heads: their attention heads.
    """

    def __init__(self, dim_in: int, dim: int, out_dim: int, depth: int, num_heads: int) -> None:
        super().__init__()
        self.projects = nn.Linear(dim_in, dim)
        self.blocks = nn.ModuleList(Block(dim, num_heads, norm_eps=NORM_EPS, init_values=None) for _ in range(depth))
        self.linear_out = nn.Linear(dim, out_dim)

    def forward(self, tokens: Tensor, rope: GridRotation) -> Tensor:
        """Return (n, P, out_dim) for the tokens (n, P, dim_in) of n views, special ones included."""
        tokens = self.projects(tokens)
        for block in self.blocks:
            tokens = block(tokens, rope)
        return self.linear_out(tokens)


class PixelHead(nn.Module):
    """A linear map from a patch to all of its pixels.

    Args:
        dim: width of the patch tokens.
        channels: values per pixel.
        patch_size: side of a patch in pixels.
    """

    def __init__(self, dim: int, channels: int, patch_size: int) -> None:
        super().__init__()
        self.patch_size = patch_size
        self.proj = nn.Linear(dim, channels * patch_size ** 2)

    def forward(self, patches: Tensor, grid: tuple[int, int]) -> Tensor:
        """Return maps (n, channels, H, W) for `patches` (n, h_p * w_p, dim)."""
        maps = self.proj(patches).transpose(1, 2).unflatten(2, grid)            # (n, channels * patch^2, h_p, w_p)
        return F.pixel_shuffle(maps, self.patch_size)                           # (n, channels, H, W)


@HEADS.register_module()
class Pi3Geometry(nn.Module):
    """Cameras, depth and confidence as Pi3 predicts them (backbones.md section 1), in our conventions; float32.

    A part of `model.geometry_head`. Pi3 gives `world_from_cam`, points in the camera's frame and a logit of confidence; out
    of it come `cam_from_world`, z-depth and 1 + exp(logit), so that the probability of the logit is 1 - 1 / confidence. Pi3
    predicts no intrinsics: the field of view is that of the pinhole camera nearest to the points.

    Args:
        dim_in: width of the taps, the backbone's `feature_dim`.
        dim: width of the decoders, the backbone's `embed_dim`.
        patch_size: side of a patch in pixels, the backbone's.
        depth: blocks of each of the three decoders.
        rope_base: base of their rotary position embedding.
        views_per_chunk: views that are read at a time, at most.
        activation_checkpointing: in training, recompute every chunk in the backward pass.
    """

    def __init__(self, dim_in: int, dim: int, patch_size: int, depth: int = 5, rope_base: float = 100.0,
                 views_per_chunk: int = 8, activation_checkpointing: bool = False) -> None:
        super().__init__()
        num_heads = max(1, dim // HEAD_WIDTH)
        self.head_width, self.rope_base = dim // num_heads, rope_base
        self.views_per_chunk = views_per_chunk
        self.activation_checkpointing = activation_checkpointing
        self.point_decoder = ViewDecoder(dim_in, dim, dim, depth, num_heads)
        self.point_head = PixelHead(dim, 3, patch_size)
        self.conf_decoder = ViewDecoder(dim_in, dim, dim, depth, num_heads)
        self.conf_head = PixelHead(dim, 1, patch_size)
        self.camera_decoder = ViewDecoder(dim_in, dim, dim // 2, depth, num_heads)
        self.camera_head = PoseHead(dim // 2)

    def forward(self, features: FeatureTaps) -> Predictions:
        """Return one stage of pose encodings (B, V, 9), z-depth > 0 and confidence > 1, (B, V, H, W) each.

        Reads the last of the taps (B, V, P, dim_in). The world of the encodings is any frame.
        """
        tap = features.taps[-1]
        with torch.autocast(tap.device.type, enabled=False):
            chunks = [self._read_chunk(tokens, features) for tokens in tap.flatten(0, 1).float().split(self.views_per_chunk)]
        encoding, depth, confidence = (torch.cat(parts).unflatten(0, tap.shape[:2])         # (B, V, ...) each
                                       for parts in zip(*chunks, strict=True))
        return Predictions([encoding], depth, confidence)

    def _read_chunk(self, tokens: Tensor, features: FeatureTaps) -> tuple[Tensor, Tensor, Tensor]:
        if self.activation_checkpointing and self.training and torch.is_grad_enabled():
            return checkpoint(self._read_views, tokens, features, use_reentrant=False)
        return self._read_views(tokens, features)

    def _read_views(self, tokens: Tensor, features: FeatureTaps) -> tuple[Tensor, Tensor, Tensor]:
        """Return encodings (n, 9), depth and confidence (n, H, W) for the tokens (n, P, dim_in) of n views."""
        grid, patches = features.patch_grid, features.patch_index
        positions = patches.new_zeros(tokens.shape[1], 2)                       # (P, 2)
        positions[patches] = patch_positions(grid, 0, patches.device)
        rope = GridRotation(positions, self.head_width, self.rope_base)
        points = self.point_head(self.point_decoder(tokens, rope)[:, patches], grid)        # (n, 3, H, W): x/z, y/z, log z
        logit = self.conf_head(self.conf_decoder(tokens, rope)[:, patches], grid)[:, 0]     # (n, H, W)
        world_from_cam = self.camera_head(self.camera_decoder(tokens, rope)[:, patches])    # (n, 4, 4)
        return encode(world_from_cam, points[:, :2]), points[:, 2].exp(), 1 + logit.exp()


def encode(world_from_cam: Tensor, rays: Tensor) -> Tensor:
    """Return pose encodings (n, 9) of cameras (n, 4, 4) whose pixels look along `rays` (n, 2, H, W), x/z and y/z."""
    cam_from_world = invert_rigid(world_from_cam)
    quaternion = quaternion_from_rotation(cam_from_world[:, :3, :3])            # (n, 4)
    return torch.cat([cam_from_world[:, :3, 3], quaternion, field_of_view(rays)], dim=1)


def field_of_view(rays: Tensor) -> Tensor:
    """Return the vertical and horizontal field of view (n, 2) in radians of the pinhole cameras nearest to `rays`.

    Least squares of x/z over the columns and of y/z over the rows, the principal point being the image centre (W/2, H/2).
    Rays that run against the image give a negative angle, which counts as a very small one where cameras are decoded.

    Args:
        rays: (n, 2, H, W), x/z and y/z of the point that each pixel sees.
    """
    across, down = rays.unbind(1)                                               # (n, H, W) each
    angles = []
    for tangents in (down.mean(dim=2), across.mean(dim=1)):                     # (n, H), (n, W)
        half = tangents.shape[1] / 2
        offsets = torch.arange(tangents.shape[1], device=rays.device) - half
        slope = tangents @ offsets / offsets.square().sum()                     # (n,), 1 over the focal length in pixels
        angles.append(2 * torch.atan(half * slope))
    return torch.stack(angles, dim=1)
