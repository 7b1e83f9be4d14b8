"""CPU time of reading a `.sens` against decoding the same JPEG and zlib streams alone (one core).

    python benchmarks/sens.py --json benchmarks/results/sens_cpu.json

Writes a stream like ScanNet's (1296 x 968 JPEG, 640 x 480 zlib depth) to a temporary folder. Measures, alternating: decoding
the payloads from memory with the libraries that the reader uses, reading all frames (opening included), and reading every
20th frame. CPU seconds, least of some repeats; the load of the machine is noted.
"""

from __future__ import annotations

import os

os.environ.setdefault('OMP_NUM_THREADS', '1')

import argparse  # noqa: E402
import io  # noqa: E402
import sys  # noqa: E402
import tempfile  # noqa: E402
import time  # noqa: E402
import zlib  # noqa: E402
from collections.abc import Callable  # noqa: E402
from pathlib import Path  # noqa: E402

import numpy as np  # noqa: E402
import PIL  # noqa: E402
from PIL import Image  # noqa: E402

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.record import publish  # noqa: E402
from jrs.io.sens import SensFrame, SensHeader, SensReader, encode_depth, write_sens  # noqa: E402

COLOR_SIZE, DEPTH_SIZE, DISTINCT = (968, 1296), (480, 640), 8


def make_frames(count: int) -> list[SensFrame]:
    """Return frames with the sizes of ScanNet's: some distinct pictures of blurred noise and slanted depth, repeated."""
    rng = np.random.default_rng(0)
    payloads = []
    for _ in range(DISTINCT):
        small = Image.fromarray(rng.integers(0, 256, (61, 81, 3), dtype=np.uint8))
        picture = np.asarray(small.resize(COLOR_SIZE[::-1], Image.Resampling.BICUBIC)).astype(np.int16)
        picture = np.clip(picture + rng.normal(0, 4, picture.shape), 0, 255).astype(np.uint8)
        color = io.BytesIO()
        Image.fromarray(picture).save(color, 'JPEG', quality=85)
        v, u = np.mgrid[:DEPTH_SIZE[0], :DEPTH_SIZE[1]]
        depth = (1500 + 2 * v + u + rng.normal(0, 3, DEPTH_SIZE)).astype(np.uint16)
        payloads.append((color.getvalue(), encode_depth(depth)))
    return [SensFrame(np.eye(4, dtype=np.float32), *payloads[index % DISTINCT]) for index in range(count)]


def decode(frames: list[SensFrame]) -> None:
    """Decode the payloads and nothing else."""
    for frame in frames:
        np.asarray(Image.open(io.BytesIO(frame.color)))
        np.frombuffer(zlib.decompress(frame.depth), '<u2').reshape(DEPTH_SIZE)


def read(path: Path, stride: int) -> None:
    """Open the file and read every `stride`-th frame."""
    with SensReader(path) as reader:
        for index in range(0, len(reader), stride):
            reader.color(index)
            reader.depth(index)


def least_seconds(works: dict[str, Callable[[], None]], repeats: int) -> dict[str, float]:
    """Return the least CPU seconds of each work; they take turns, so that a busy moment does not hit one of them."""
    seconds: dict[str, list[float]] = {name: [] for name in works}
    for _ in range(repeats):
        for name, work in works.items():
            start = time.process_time()
            work()
            seconds[name].append(time.process_time() - start)
    return {name: min(found) for name, found in seconds.items()}


def main() -> None:
    """Measure, print a line of JSON, append it to a list."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--frames', type=int, default=200)
    parser.add_argument('--repeats', type=int, default=4)
    parser.add_argument('--json', type=Path, help='append the measurement to this list')
    args = parser.parse_args()
    frames = make_frames(args.frames)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / 'scene.sens'
        write_sens(path, SensHeader(*[np.eye(4, dtype=np.float32)] * 2, COLOR_SIZE, DEPTH_SIZE), frames)
        found = least_seconds({'decode': lambda: decode(frames), 'all': lambda: read(path, 1),
                               'every_20th': lambda: read(path, 20)}, args.repeats)
        size = path.stat().st_size
    figures = dict(
        frames=args.frames, file_mb=size / 1e6,
        decode_frames_per_s=args.frames / found['decode'], read_frames_per_s=args.frames / found['all'],
        read_over_decode=found['decode'] / found['all'], every_20th_times_faster=found['all'] / found['every_20th'])
    publish(figures, args.json, pillow=PIL.__version__)


if __name__ == '__main__':
    main()
