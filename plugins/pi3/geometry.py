"""Pi3's own head: points and confidence by one linear map from a patch to its pixels."""

from __future__ import annotations

from jrs.heads.pixels import PixelHead
from jrs.heads.view_geometry import ViewGeometry
from jrs.registry import HEADS


@HEADS.register_module()
class Pi3Geometry(ViewGeometry):
    """Cameras, depth and confidence as Pi3 predicts them (backbones.md section 1), in our conventions (`ViewGeometry`).

    Args:
        dim_in: width of the taps, the backbone's `feature_dim`.
        dim: width of the decoders, the backbone's `embed_dim`.
        patch_size: side of a patch in pixels, the backbone's.
        depth: blocks of each of the three decoders.
        rope_base: base of their rotary position embedding.
        views_per_chunk: views that are read at a time, at most.
        activation_checkpointing: in training, recompute every chunk in the backward pass.
        num_special: special tokens of a view, the backbone's, for the estimate of memory.
    """

    def __init__(self, dim_in: int, dim: int, patch_size: int, depth: int = 5, rope_base: float = 100.0,
                 views_per_chunk: int = 8, activation_checkpointing: bool = False,
                 num_special: int = 5) -> None:
        super().__init__(dim_in, dim, patch_size, lambda *widths: PixelHead(dim, sum(widths), patch_size), depth, rope_base,
                         views_per_chunk, activation_checkpointing, num_special)
