"""One camera read off the patch tokens of a view, by MLPs alone: of Pi3, Pi3X and MapAnything."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, nn
from torch.nn import functional as F

from jrs.geometry.camera import rigid_from_rotation_translation, rotation_from_quaternion
from jrs.geometry.rotation import nearest_rotation

SHORTEST = 1e-8                                # quaternion


class TokenConv(nn.Conv2d):
    """A linear layer on tokens (..., in) whose weight (out, in, 1, 1) is written as that of a 1 x 1 convolution."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__(in_channels, out_channels, kernel_size=1)

    def forward(self, tokens: Tensor) -> Tensor:
        """Return (..., out) for `tokens` (..., C)."""
        return F.linear(tokens, self.weight.flatten(1), self.bias)


class ResidualMlp(nn.Module):
    """Three linear layers, a ReLU after each, added to their input of width `dim`.

    Args:
        dim: width.
        linear: makes a layer of two widths.
    """

    def __init__(self, dim: int, linear: Callable[[int, int], nn.Module] = nn.Linear) -> None:
        super().__init__()
        self.res_conv1, self.res_conv2, self.res_conv3 = linear(dim, dim), linear(dim, dim), linear(dim, dim)

    def forward(self, tokens: Tensor) -> Tensor:
        """Return (..., C) for `tokens` (..., C)."""
        hidden = F.relu(self.res_conv2(F.relu(self.res_conv1(tokens))))
        return tokens + F.relu(self.res_conv3(hidden))


def rotation_from_rows(values: Tensor) -> Tensor:
    """Return the rotations (n, 3, 3) nearest to the matrices whose rows point along the thirds of `values` (n, 9)."""
    return nearest_rotation(F.normalize(values.unflatten(1, (3, 3)), dim=2))


def rotation_from_raw_quaternion(values: Tensor) -> Tensor:
    """Return the rotations (n, 3, 3) of quaternions xyzw `values` (n, 4) of any length."""
    return rotation_from_quaternion(values / values.norm(dim=1, keepdim=True).clamp_min(SHORTEST))


class PoseHead(nn.Module):
    """Reads one camera off the patch tokens of a view (backbones.md section 1, "Camera head").

    Args:
        dim: width of the MLPs.
        dim_in: width of the tokens, mapped to `dim` by a layer `proj`; None = they have `dim`, and there is no such layer.
        rotation: 'matrix', nine numbers, of which the nearest rotation counts (Pi3), or 'quaternion' (MapAnything).
        linear: makes the layers on tokens, of two widths: `nn.Linear`, or `TokenConv` where a file has 1 x 1 convolutions.
    """

    ROTATIONS = {'matrix': (9, rotation_from_rows), 'quaternion': (4, rotation_from_raw_quaternion)}

    def __init__(self, dim: int, dim_in: int | None = None, rotation: str = 'matrix',
                 linear: Callable[[int, int], nn.Module] = nn.Linear) -> None:
        super().__init__()
        size, self._rotation = self.ROTATIONS[rotation]
        self.proj = nn.Identity() if dim_in is None else linear(dim_in, dim)
        self.res_conv = nn.ModuleList(ResidualMlp(dim, linear) for _ in range(2))
        self.more_mlps = nn.Sequential(nn.Linear(dim, dim), nn.ReLU(), nn.Linear(dim, dim), nn.ReLU())
        self.fc_t = nn.Linear(dim, 3)
        self.fc_rot = nn.Linear(dim, size)

    def read(self, patches: Tensor) -> tuple[Tensor, Tensor]:
        """Return translations (n, 3) and raw numbers of rotations, (n, 9) or (n, 4), for `patches` (n, N, dim_in)."""
        tokens = self.proj(patches)
        for block in self.res_conv:
            tokens = block(tokens)
        view = self.more_mlps(tokens.mean(dim=1))                               # (n, dim)
        return self.fc_t(view), self.fc_rot(view)

    def forward(self, patches: Tensor) -> Tensor:
        """Return `world_from_cam` (n, 4, 4) of n views for their `patches` (n, N, dim_in)."""
        translation, values = self.read(patches)
        return rigid_from_rotation_translation(self._rotation(values), translation)
