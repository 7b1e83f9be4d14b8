"""Geometry of each view, read by itself from the last tap by decoders over its tokens: the base of Pi3 and Pi3X."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from jrs.geometry.camera import invert_rigid, quaternion_from_rotation
from jrs.heads.pose import PoseHead
from jrs.layers.block import Block
from jrs.layers.dpt import HeadMemory, chunk_memory
from jrs.layers.rope import GridRotation, patch_positions
from jrs.layers.whole import Whole
from jrs.structures import FeatureTaps, Predictions

HEAD_WIDTH = 64                                # of all decoders, however wide
# Values alive for a view, over tokens times width and over pixels; measured (tests/heads/_memory.py).
SAVED_BLOCK, SAVED_ENDS, SAVED_PIXEL = 18, 8, 6.7              # for the backward pass: a block; all ends; beside the maps
ALIVE_BLOCK, ALIVE_PIXEL = 8.4, 3                              # without one: inside a block; beside the maps
RAYS = 3                                       # values of a pixel that stay, beside depth and confidence
NORM_EPS = 1e-6


class ViewDecoder(nn.Module):
    """A linear map, transformer blocks inside each view, a linear map (backbones.md section 1, "Heads, Pi3").

    Args:
        dim_in: width of the tokens.
        dim: width in between; its heads have `HEAD_WIDTH`.
        out_dim: width of the result.
        depth: number of blocks.
        rope_base: base of their rotary position embedding.
    """

    def __init__(self, dim_in: int, dim: int, out_dim: int, depth: int, rope_base: float = 100.0) -> None:
        super().__init__()
        num_heads = max(1, dim // HEAD_WIDTH)
        self.head_width, self.rope_base = dim // num_heads, rope_base
        self.projects = nn.Linear(dim_in, dim)
        self.blocks = nn.ModuleList(Block(dim, num_heads, norm_eps=NORM_EPS, init_values=None) for _ in range(depth))
        self.linear_out = nn.Linear(dim, out_dim)

    def forward(self, tokens: Tensor, positions: Tensor) -> Tensor:
        """Return (n, P, out_dim) for the tokens (n, P, dim_in) of n views, at `positions` (P, 2), special ones included."""
        rope = GridRotation(positions, self.head_width, self.rope_base)
        tokens = self.projects(tokens)
        for block in self.blocks:
            tokens = block(tokens, rope)
        return self.linear_out(tokens)


class ViewGeometry(nn.Module):
    """Cameras, depth, confidence and rays, each view read by itself from the last tap; float32. Base class.

    A part of `model.geometry_head`. Three decoders give `world_from_cam`, points in the camera's frame (x / z, y / z and
    log z) and a logit of confidence; out of it come `cam_from_world`, z-depth, unit rays (`extras['rays']`) and
    1 + exp(logit), so that the probability of the logit is 1 - 1 / confidence. No intrinsics are predicted: the field of
    view is that of the pinhole camera nearest to the points.

    Args:
        dim_in: width of the taps, the backbone's `feature_dim`.
        dim: width of the decoders.
        patch_size: side of a patch in pixels.
        make_pixel_head: widths of the branches of a head (points: 2, 1; confidence: 1) -> a module that makes maps
            (n, 3 or 1, H, W) of patches (n, h_p * w_p, dim) and their grid (h_p, w_p). Its `values(grid)` are how many
            values of a view its backward pass needs, and how many are alive at a time without one.
        depth: blocks of each of the three decoders.
        rope_base: base of their rotary position embedding.
        views_per_chunk: views that are read at a time, at most.
        activation_checkpointing: in training, recompute every chunk in the backward pass.
        num_special: special tokens of a view that the decoders read beside the patches, for the estimate of memory.

    Attributes:
        largest_log_depth: log z counts as at most this.
    """

    largest_log_depth = math.inf

    def __init__(self, dim_in: int, dim: int, patch_size: int, make_pixel_head: Callable[..., nn.Module], depth: int = 5,
                 rope_base: float = 100.0, views_per_chunk: int = 8, activation_checkpointing: bool = False,
                 num_special: int = 0) -> None:
        super().__init__()
        self.views_per_chunk = views_per_chunk
        self.num_special = num_special
        self.activation_checkpointing = activation_checkpointing
        self.patch_size = patch_size
        self.point_decoder = ViewDecoder(dim_in, dim, dim, depth, rope_base)
        self.point_head = make_pixel_head(2, 1)
        self.conf_decoder = ViewDecoder(dim_in, dim, dim, depth, rope_base)
        self.conf_head = make_pixel_head(1)
        self.camera_decoder = ViewDecoder(dim_in, dim, dim // 2, depth, rope_base)
        self.camera_head = PoseHead(dim // 2)

    def memory(self, views: int, size: tuple[int, int], device: torch.device) -> HeadMemory:
        """Return what reading `views` views of (H, W) = `size` needs."""
        grid, width = tuple(side // self.patch_size for side in size), self.point_decoder.projects.out_features
        patches, pixels = grid[0] * grid[1] * width, size[0] * size[1]
        tokens = patches + self.num_special * width
        saved, alive = zip(*(head.values(grid) for head in (self.point_head, self.conf_head)), strict=True)
        blocks = sum(len(one.blocks) for one in (self.point_decoder, self.conf_decoder, self.camera_decoder))
        whole = (SAVED_BLOCK * blocks + SAVED_ENDS) * tokens + SAVED_PIXEL * pixels + sum(saved)
        at_once, stays = min(views, self.views_per_chunk), (2 + RAYS) * pixels
        # While blocks run, one map of those that stay is not there yet.
        needed = max(ALIVE_BLOCK * tokens - pixels, ALIVE_PIXEL * pixels + patches + max(alive))
        chunk = chunk_memory(needed, stays, views, at_once)
        return HeadMemory(4.0 * chunk, 4.0 * whole,
                          at_once if self.activation_checkpointing else None, 4.0 * RAYS * pixels)

    def forward(self, features: FeatureTaps) -> Predictions:
        """Return one stage of pose encodings (B, V, 9), z-depth > 0 and confidence > 1, (B, V, H, W) each, and rays.

        Reads the last of the taps (B, V, P, dim_in). The world of the encodings is any frame.
        """
        tap = features.taps[-1]
        whole = Whole(tap.shape[0] * tap.shape[1])
        with torch.autocast(tap.device.type, enabled=False):
            for tokens in tap.flatten(0, 1).split(self.views_per_chunk):
                whole.add(self._read_chunk(tokens.float(), features))
        encoding, depth, confidence, rays = (part.unflatten(0, tap.shape[:2]) for part in whole.parts())   # (B, V, ...) each
        return Predictions([encoding], depth, confidence, extras={'rays': rays})

    def _read_chunk(self, tokens: Tensor, features: FeatureTaps) -> tuple[Tensor, ...]:
        if self.activation_checkpointing and self.training and torch.is_grad_enabled():
            return checkpoint(self._read_views, tokens, features, use_reentrant=False)
        return self._read_views(tokens, features)

    def _read_views(self, tokens: Tensor, features: FeatureTaps) -> tuple[Tensor, ...]:
        """Return encodings (n, 9), depth and confidence (n, H, W), rays (n, H, W, 3) for the tokens (n, P, dim_in)."""
        grid, patches, positions = features.patch_grid, features.patch_index, token_positions(features)
        points = self.point_head(self.point_decoder(tokens, positions)[:, patches], grid)   # (n, 3, H, W): x/z, y/z, log z
        logit = self.conf_head(self.conf_decoder(tokens, positions)[:, patches], grid)[:, 0]        # (n, H, W)
        world_from_cam = self.camera_head(self.camera_decoder(tokens, positions)[:, patches])       # (n, 4, 4)
        slopes, log_depth = points.split([2, 1], dim=1)
        rays = F.normalize(F.pad(slopes, (0, 0, 0, 0, 0, 1), value=1.0), dim=1).permute(0, 2, 3, 1)     # (n, H, W, 3)
        depth = log_depth[:, 0].clamp(max=self.largest_log_depth).exp()
        return encode(world_from_cam, slopes), depth, 1 + logit.exp(), rays


def token_positions(features: FeatureTaps) -> Tensor:
    """Return row and column (P, 2) int64 of the tokens of a view; patches count from (1, 1), others stand at (0, 0)."""
    positions = features.patch_index.new_zeros(features.taps[-1].shape[2], 2)
    positions[features.patch_index] = patch_positions(features.patch_grid, 0, positions.device)
    return positions


def encode(world_from_cam: Tensor, slopes: Tensor) -> Tensor:
    """Return pose encodings (n, 9) of cameras (n, 4, 4) whose pixels look along `slopes` (n, 2, H, W), x/z and y/z."""
    cam_from_world = invert_rigid(world_from_cam)
    quaternion = quaternion_from_rotation(cam_from_world[:, :3, :3])            # (n, 4)
    return torch.cat([cam_from_world[:, :3, 3], quaternion, field_of_view(slopes)], dim=1)


def field_of_view(slopes: Tensor) -> Tensor:
    """Return the vertical and horizontal field of view (n, 2) in radians of the pinhole cameras nearest to `slopes`.

    Least squares of x/z over the columns and of y/z over the rows, the principal point being the image centre (W/2, H/2).
    Rays that run against the image give a negative angle, which counts as a very small one where cameras are decoded.

    Args:
        slopes: (n, 2, H, W), x/z and y/z of the point that each pixel sees.
    """
    across, down = slopes.unbind(1)                                             # (n, H, W) each
    angles = []
    for tangents in (down.mean(dim=2), across.mean(dim=1)):                     # (n, H), (n, W)
        half = tangents.shape[1] / 2
        offsets = torch.arange(tangents.shape[1], device=slopes.device) - half
        slope = tangents @ offsets / offsets.square().sum()                     # (n,), 1 over the focal length in pixels
        angles.append(2 * torch.atan(half * slope))
    return torch.stack(angles, dim=1)
