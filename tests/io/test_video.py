"""Frames of a video by number."""

import os
from pathlib import Path

import cv2
import mmcv
import numpy as np
import pytest

from jrs.errors import DataError
from jrs.io.images import count_frames
from jrs.io.video import VideoFrames


@pytest.fixture(scope='module')
def video(tmp_path_factory):
    """Ten frames, each brighter than the one before."""
    path = tmp_path_factory.mktemp('video') / 'a.mkv'
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*'MJPG'), 30, (32, 24))
    for number in range(10):
        writer.write(np.full((24, 32, 3), 20 * number, np.uint8))
    writer.release()
    return path


def test_frames_are_found_by_number(video):
    frames = VideoFrames(video)
    for number in (0, 1, 5, 9):
        picture = frames.frame(number)
        assert picture.shape == (24, 32, 3) and abs(picture.mean() - 20 * number) < 3
    frames.close()


def test_frames_are_those_that_mmcv_reads_in_order(video):
    frames, theirs = VideoFrames(video), mmcv.VideoReader(str(video))
    assert len(theirs) == 10
    for number, picture in enumerate(theirs):
        assert (frames.frame(number) == picture[..., ::-1]).all()
    frames.close()


def test_backwards_and_beyond_the_end_are_errors(video):
    frames = VideoFrames(video)
    frames.frame(4)
    with pytest.raises(ValueError, match='after frame 4'):
        frames.frame(4)
    with pytest.raises(DataError, match='ends at frame 10, frame 12'):
        frames.frame(12)


def test_what_is_no_video_is_named(tmp_path):
    (tmp_path / 'a.mkv').write_bytes(b'no video')
    with pytest.raises(DataError, match='a.mkv'):
        VideoFrames(tmp_path / 'a.mkv')


@pytest.mark.parametrize('name', [b'\xff.mkv', b'http:a.mkv', b'a%03d b.mkv', b'-a.mkv'])
def test_a_name_is_no_text_no_address_and_no_pattern(video, tmp_path, monkeypatch, name):
    """On the code before, OpenCV crashed on the first name and looked the second one up in the network."""
    monkeypatch.chdir(tmp_path)
    path = Path(os.fsdecode(name))
    path.write_bytes(video.read_bytes())
    assert count_frames(path) == 10 and abs(VideoFrames(path).frame(5).mean() - 100) < 3
