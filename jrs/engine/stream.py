"""A long video, view by view: windows of it as scenes, and what each view took."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import count, islice

import torch

from jrs.engine.inference import Reconstructor, Scene, in_first_camera
from jrs.engine.memory import give_back_memory
from jrs.engine.usage import memory_gb, now, peak_memory_gb
from jrs.io.images import LoadedPhotos
from jrs.models.streaming import SceneStream


@dataclass
class Window:
    """Some views of a stream that follow each other.

    Attributes:
        number: 0, 1, ...
        scene: what is known of them; the world is the first camera of the whole stream.
        seconds: what each view took, in the device's time.
        held_mb: what the blocks keep of earlier views, after the last of these.
        peak_gb: most memory so far, as `peak_memory_gb` says.
    """

    number: int
    scene: Scene
    seconds: list[float]
    held_mb: float
    peak_gb: float

    def record(self) -> dict:
        """Return what `stream.json` says of it."""
        found = self.scene.instances
        return dict(window=self.number, views=self.scene.photos.names, kept_mb=round(self.held_mb, 3),
                    peak_gb=round(self.peak_gb, 3), instances=None if found is None else len(found.scores),
                    seconds_per_view=[round(value, 4) for value in self.seconds])


def stream_windows(reconstruct: Reconstructor, views: Iterable[LoadedPhotos], window: int,
                   say: Callable[[str], None] = print) -> Iterator[Window]:
    """Yield a window after each `window` views, the last one with what remains. Nothing else of the stream is kept.

    Args:
        reconstruct: a model that streams, ready for photos.
        views: photos of one view each, of one size, such as `jrs.io.images.each_photo` gives.
        window: views per window, and how many the model remembers at most beside the first.
        say: takes a line per view.

    Raises:
        ConfigError: the model sees all views at once.
    """
    remaining, done, first = iter(views), 0, None
    with SceneStream(reconstruct.model, window) as stream:
        for number in count():
            give_back_memory()                                                  # of the window before
            photos, seconds = _push_all(stream, islice(remaining, window), reconstruct.device, done, say)
            if not photos:
                return
            found = stream.take().to('cpu')
            if first is None and found.cam_from_world is not None:
                first = found.cam_from_world[:1]                                # (1, 4, 4): the first camera of all
            facts = {'views': f'{done} to {done + len(photos) - 1} of a stream', 'forward passes': f'{sum(seconds):.1f} s'}
            scene = reconstruct.scene(in_first_camera(found, first), LoadedPhotos.together(photos), facts)
            done += len(photos)
            result = Window(number, scene, seconds, stream.held_bytes() / 1e6, peak_memory_gb(reconstruct.device))
            del photos, found, scene                                            # whoever takes the window alone keeps it
            yield result
            del result


def _push_all(stream: SceneStream, views: Iterable[LoadedPhotos], device: torch.device, done: int,
              say: Callable[[str], None]) -> tuple[list[LoadedPhotos], list[float]]:
    """Push the views of a window, of which the first has number `done`; return them, and the seconds of each."""
    photos, seconds = [], []
    for number, view in enumerate(views, start=done):
        start = now(device)
        stream.push(view.images[0].to(device), view.names[0])
        seconds.append(now(device) - start)
        photos.append(view)
        kept = stream.held_bytes() / 1e6
        say(f'view {number}, {view.names[0]}: {seconds[-1]:.3f} s, kept of earlier views {kept:.2f} MB, '
            f'memory {memory_gb(device):.3f} GB, peak {peak_memory_gb(device):.3f} GB')
    return photos, seconds
