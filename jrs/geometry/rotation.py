"""The rotation nearest to a matrix, with a gradient that is finite at rotations too."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

SMALLEST_SUM = 1e-6                            # of two singular values; below it no rotation is nearest


def nearest_rotation(matrix: Tensor) -> Tensor:
    """Return the rotations nearest to `matrix` (..., 3, 3), such as (B, 3, 3), in the sum of squares; of its shape."""
    return _NearestRotation.apply(matrix)


class _NearestRotation(torch.autograd.Function):
    """U D V^T of the matrix U S V^T, with the sign D = diag(1, 1, det U V^T).

    The gradient of a plain SVD divides by differences of singular values, which vanish at a rotation; that of the product
    U D V^T needs their sums only: R^T dR in the basis V is skew(V^T R^T dM V) over the sums of the signed values.
    """

    @staticmethod
    def forward(ctx, matrix: Tensor) -> Tensor:
        u, values, vt = torch.linalg.svd(matrix)
        sign = torch.ones_like(values)
        sign[..., 2] = torch.linalg.det(u @ vt).sign()                          # (..., 3)
        rotation = (u * sign[..., None, :]) @ vt                                # (..., 3, 3)
        ctx.save_for_backward(rotation, values * sign, vt)
        return rotation

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient: Tensor) -> Tensor:
        rotation, values, vt = ctx.saved_tensors
        sums = values[..., :, None] + values[..., None, :]                      # (..., 3, 3), >= 0 off the diagonal
        turn = rotation.mT @ gradient
        turn = vt @ (turn - turn.mT) @ vt.mT / sums.clamp_min(SMALLEST_SUM)     # (..., 3, 3), antisymmetric
        return rotation @ vt.mT @ turn @ vt
