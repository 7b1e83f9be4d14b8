"""Frames of a video by number, in rising order."""

from __future__ import annotations

import os
from pathlib import Path

import cv2
import numpy as np

from jrs.errors import DataError

os.environ.setdefault('OPENCV_FFMPEG_LOGLEVEL', '-8')       # what FFmpeg would write to the terminal, an error of ours says


class VideoFrames:
    """Reads chosen frames; those between are grabbed, not converted, since seeking is not exact in many containers.

    `mmcv.VideoReader` gives the same frames where it reads all of them in order; for chosen ones it seeks, and it trusts the
    count that the container states.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._capture = open_video(path)
        self._grabbed = -1
        if not self._capture.isOpened():
            raise DataError(f'{path}: no video that OpenCV can read. Extract its frames, and give their folder.')

    def close(self) -> None:
        """Close the file."""
        self._capture.release()

    def frame(self, index: int) -> np.ndarray:
        """Return frame `index`, beyond the last one asked for, (H, W, 3) uint8 RGB."""
        if index <= self._grabbed:
            raise ValueError(f'frame {index} was asked for after frame {self._grabbed}')
        while self._grabbed < index:
            if not self._capture.grab():
                raise DataError(f'{self.path}: ends at frame {self._grabbed + 1}, frame {index} is needed. Is it cut off?')
            self._grabbed += 1
        done, picture = self._capture.retrieve()
        if not done:
            raise DataError(f'{self.path}: frame {index} cannot be decoded.')
        return cv2.cvtColor(picture, cv2.COLOR_BGR2RGB)


class RepeatedFrames:
    """The same in any order, fastest in a rising one: the file is opened when a frame is asked for, and again to go back."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._frames, self._last = None, -1

    def frame(self, index: int) -> np.ndarray:
        """Return frame `index`, (H, W, 3) uint8 RGB."""
        if self._frames is None or index <= self._last:
            if self._frames is not None:
                self._frames.close()
            self._frames = VideoFrames(self.path)
        self._last = index
        return self._frames.frame(index)


def announced_frames(path: str | os.PathLike) -> int:
    """Return how many frames the header of a video announces; often a little wrong, below 1 where it does not say."""
    capture = open_video(path)
    count = int(capture.get(cv2.CAP_PROP_FRAME_COUNT))
    capture.release()
    return count


def open_video(path: str | os.PathLike) -> cv2.VideoCapture:
    """Return OpenCV's reader of a file.

    OpenCV crashes on a name in text that is not UTF-8, and takes what stands before a colon (`http:walk.mp4`) for a protocol
    unless a folder stands before it.
    """
    return cv2.VideoCapture(os.fsencode(os.path.abspath(path)))
