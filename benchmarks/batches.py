"""Memory that one worker of a training loader holds, in batches of 2 scenes x 24 views of 518 x 518 (max_images=48).

Shared: of /dev/shm. Own: what the worker does not share with the process that started it, at most.

python benchmarks/batches.py            what a pre-trained teacher needs, what the data set's own geometry needs
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
VIEWS, SIZE = 24, (480, 640)
NEEDS = {'pre-trained teacher (ids)': ('instance_ids',), 'true geometry (ids, depth)': ('depth_m', 'instance_ids')}


def main() -> None:
    """Write two scenes, let a worker prefetch, print a line for each of `NEEDS`."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--batches', type=int, default=4, help='batches that are taken while it is measured')
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        write_scenes(Path(folder) / 'scenes', ('a', 'b'))
        for name, maps in NEEDS.items():
            peak, own, sent = measure(folder, maps, args.batches)
            print(f'{name:28} {sent / 1e6:6.1f} MB a batch, at most {peak / 1e6:6.1f} MB of /dev/shm and {own / 1e6:.0f} MB '
                  'of its own', flush=True)


def write_scenes(root: Path, names: tuple[str, ...]) -> None:
    """Write scene folders that training accepts, of pictures that say nothing."""
    from jrs.datasets.scene import Camera, Frame, Mesh, SceneInstance, SceneRecord, SceneWriter
    lens = np.array([[580.0, 0, 319.5], [0, 580, 239.5], [0, 0, 1]])
    random = np.random.default_rng(0)
    picture = random.integers(0, 255, (*SIZE, 3), dtype=np.uint8)
    frames = [Frame(str(index), index, 0, np.eye(4)) for index in range(VIEWS)]
    for name in names:
        with SceneWriter(root, name) as writer:
            for frame in frames:
                writer.color_pixels(frame.name, picture)
                writer.depth(frame.name, np.full(SIZE, 2000, np.uint16))
                writer.instances(frame.name, random.integers(0, 3, SIZE))
            writer.mesh(Mesh(np.zeros((3, 3)), np.zeros((3, 3), np.uint8), np.array([[0, 1, 2]], np.int32)))
            things = [SceneInstance(number, 'chair', {'scannet20': 5}) for number in (1, 2)]
            writer.finish(SceneRecord(name, 'random', [Camera(SIZE, lens, SIZE, lens)], frames, things))
    (root / 'train.txt').write_text('\n'.join(names) + '\n')


def measure(folder: str, maps: tuple[str, ...], batches: int) -> tuple[int, int, int]:
    """Return the peaks of /dev/shm beyond what others hold and of the worker's own memory, and the bytes of a batch."""
    import torch
    from torch.utils.data import DataLoader

    from jrs.datasets.dataset import SceneDataset, collate_scenes, limit_worker_threads
    from jrs.datasets.sampling import ViewBatchSampler
    data = SceneDataset('scenes', 'train', 'scannet20', 518, data_root=folder, view_spacing=(1, 1), maps=maps)
    sampler = ViewBatchSampler(num_scenes=2, seed=0, max_images=2 * VIEWS, views=(VIEWS, VIEWS), aspect_ratio=(1.0, 1.0))
    before, peak, own, sent = used(), 0, 0, 0
    loader = iter(DataLoader(data, batch_sampler=sampler, num_workers=1, collate_fn=collate_scenes,
                             worker_init_fn=limit_worker_threads))
    for _ in range(batches):
        batch = next(loader)                                            # held while the worker prefetches two more
        sent = sum(value.nbytes for value in vars(batch).values() if isinstance(value, torch.Tensor))
        level, since = used(), time.monotonic()
        while time.monotonic() - since < 1.5:                           # until the worker has nothing more to do
            time.sleep(0.05)
            if used() != level:
                level, since = used(), time.monotonic()
            peak, own = max(peak, level - before), max(own, private(loader._workers[0].pid))
    return peak, own, sent


def used() -> int:
    """Return the bytes of /dev/shm that are in use."""
    state = os.statvfs('/dev/shm')
    return (state.f_blocks - state.f_bfree) * state.f_frsize


def private(process: int) -> int:
    """Return the bytes of a process that no other one shares."""
    lines = Path(f'/proc/{process}/smaps_rollup').read_text().splitlines()
    return 1024 * sum(int(line.split()[1]) for line in lines if line.startswith('Private_'))


if __name__ == '__main__':
    sys.path.insert(0, str(ROOT))
    main()
