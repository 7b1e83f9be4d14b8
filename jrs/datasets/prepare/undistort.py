"""Pictures of a real lens as a pinhole camera of the same size would take them (data.md section 5.3)."""

from __future__ import annotations

import cv2
import numpy as np

from jrs.io.colmap import Lens

VALID = 255                                                 # of an anonymisation mask


class Undistorter:
    """Undistorts pictures of one lens.

    A fisheye gets the focal length that fills the picture (OpenCV's estimate, balance 0) and the centre of the picture as
    its principal point, as the official tool does; other lenses keep their intrinsics.

    Attributes:
        intrinsics: (3, 3) float64 of the pictures returned, pixel centres at integers.
    """

    def __init__(self, lens: Lens) -> None:
        height, width = lens.size
        self.lens = lens
        self.intrinsics = lens.intrinsics.copy()
        self._maps = None
        if lens.model == 'OPENCV_FISHEYE':
            self.intrinsics = cv2.fisheye.estimateNewCameraMatrixForUndistortRectify(
                lens.intrinsics, lens.distortion, (width, height), np.eye(3), balance=0.0)
            self.intrinsics[:2, 2] = (width - 1) / 2, (height - 1) / 2      # w/2, h/2 with centres at half-integers
            self._maps = cv2.fisheye.initUndistortRectifyMap(lens.intrinsics, lens.distortion, np.eye(3), self.intrinsics,
                                                             (width, height), cv2.CV_32FC1)
        elif len(lens.distortion) and lens.distortion.any():
            self._maps = cv2.initUndistortRectifyMap(lens.intrinsics, lens.distortion, None, self.intrinsics,
                                                     (width, height), cv2.CV_32FC1)

    @property
    def is_identity(self) -> bool:
        """Whether pictures come back as they were."""
        return self._maps is None

    def picture(self, picture: np.ndarray) -> np.ndarray:
        """Return (H, W, 3) uint8; pixels from beyond the border mirror it."""
        return self._remap(picture, cv2.INTER_LINEAR, cv2.BORDER_REFLECT_101)

    def nearest(self, values: np.ndarray) -> np.ndarray:
        """Return (H, W) without mixing values; 0 for pixels from beyond the border."""
        return self._remap(values, cv2.INTER_NEAREST, cv2.BORDER_CONSTANT)

    def valid(self, mask: np.ndarray | None) -> np.ndarray:
        """Return (H, W) bool: pixels that the lens saw, and that are `VALID` in `mask` (H, W) uint8 with all they mix."""
        seen = self.nearest(np.ones(self.lens.size, np.uint8)) > 0
        return seen if mask is None else seen & (self._remap(mask, cv2.INTER_LINEAR, cv2.BORDER_CONSTANT, VALID) == VALID)

    def _remap(self, image: np.ndarray, how: int, border: int, fill: int = 0) -> np.ndarray:
        return image if self._maps is None else cv2.remap(image, *self._maps, how, borderMode=border, borderValue=fill)
