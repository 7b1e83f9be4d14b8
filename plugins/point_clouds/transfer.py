"""Masks of superpoints -> vertices: they are on the points that are scored already."""

from __future__ import annotations

import numpy as np

from jrs.errors import DataError
from jrs.postprocess.lift import MaskTransfer, VisiblePixels
from jrs.registry import POSTPROCESSORS
from jrs.structures import Reconstruction, SceneGroundTruth


@POSTPROCESSORS.register_module()
class SuperpointTransfer(MaskTransfer):
    """Gives each vertex the masks of its superpoint: every superpoint is a pixel of one view, which sees its vertices."""

    sees = 'points'

    def __init__(self) -> None:
        super().__init__('any', None)

    def describe(self) -> dict[str, str]:
        """Return the rule in words, for tables of results."""
        return {'transfer': 'none: masks are of the superpoints of the true mesh'}

    def visible_pixels(self, scene: SceneGroundTruth, input_size: tuple[int, int], mask_size: tuple[int, int],
                       reconstruction: Reconstruction | None = None) -> VisiblePixels:
        """Return which superpoint each vertex is of; masks are (1, S).

        Raises:
            DataError: the ground truth has no superpoints, or another number of them.
        """
        known = 0 if scene.superpoints is None else int(scene.superpoints.max()) + 1
        if known == 0 or mask_size != (1, known):
            raise DataError(f'{scene.scene_name}: masks must be of the {known} superpoints of the ground truth, so of size '
                            f'(1, {known}); they are {mask_size}.')
        count = len(scene.vertices)
        return VisiblePixels(np.arange(count), scene.superpoints, np.ones(count, np.int64), (1, *mask_size))
