"""Token merging beside plain attention at growing numbers of views: time of the blocks over all views, of a pass, depth.

    python benchmarks/merging.py                                # 24, 48 and 96 views of 12 x 16 patches, width 192
    python benchmarks/merging.py --views 48 --pairs 9 --json benchmarks/results/merging_cpu.json

Times: one model of VGGT's shape with random weights runs in turns with merging and without, in one process on one thread.
They are CPU seconds, and ratios are medians over pairs, plain over merged: `block_ratio` of the blocks over all views alone,
`pass_ratio` of backbone and depth head, `depth_moved` the mean of |merged - plain| / plain over all pixels after one scale.

Depth: the pre-trained model of `weights/rooms_tiny_geometry` reads as many views of built-in rooms that it has not seen,
at the size that it was trained at (6 x 8 patches, 2 to 12 views): `abs_rel`, `abs_rel_merged` against true depth, one scale.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from pathlib import Path
from statistics import mean, median

os.environ.setdefault('OMP_NUM_THREADS', '1')

import numpy as np  # noqa: E402
import torch  # noqa: E402

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks.record import publish  # noqa: E402
from jrs.backbones.vggt import VGGT  # noqa: E402
from jrs.config import load_config  # noqa: E402
from jrs.engine.inference import load_model  # noqa: E402
from jrs.evaluation.depth import depth_errors  # noqa: E402
from jrs.heads.depth import DepthHead  # noqa: E402
from jrs.layers.attention import SceneAttention  # noqa: E402
from jrs.plugins import load_plugins  # noqa: E402
from jrs.registry import ATTENTIONS  # noqa: E402
from jrs.synth.camera_path import camera_path  # noqa: E402
from jrs.synth.layout import build_room  # noqa: E402
from jrs.synth.renderer import Renderer, at_pixels, develop  # noqa: E402

GRID, PATCH = (12, 16), 14
TRAINED = ROOT / 'weights' / 'rooms_tiny_geometry'
TRAINED_SIZE = (84, 112)
FIRST_ROOM = 1000                               # a seed that no preset uses


class Timed:
    """CPU seconds of the blocks over all views of a backbone, by hooks."""

    def __init__(self, backbone: VGGT) -> None:
        self.seconds, self.since = 0.0, 0.0
        for block in backbone.global_blocks:
            block.register_forward_pre_hook(self._begin)
            block.register_forward_hook(self._end)

    def _begin(self, *given) -> None:
        self.since = time.process_time()

    def _end(self, *given) -> None:
        self.seconds += time.process_time() - self.since


def timed_model(width: int, depth: int) -> tuple[VGGT, DepthHead]:
    """Return a backbone of `depth` pairs with heads of 64 and a depth head, random weights of which every block matters."""
    torch.manual_seed(0)
    taps = tuple(round(depth * (step + 1) / 4) - 1 for step in range(4))
    backbone = VGGT(embed_dim=width, depth=depth, num_heads=width // 64, patch_embed='conv', feature_layers=taps,
                    init_values=0.5)
    return backbone.eval(), DepthHead(2 * width, features=32, out_channels=(32, 32, 48, 48)).eval()


def times(views: int, pairs: int, width: int, depth: int, merging: SceneAttention) -> dict:
    """Return ratios of CPU times, and how far merging moves the depth of random weights."""
    backbone, head = timed_model(width, depth)
    timed = Timed(backbone)
    images = room_views(FIRST_ROOM, views, (GRID[0] * PATCH, GRID[1] * PATCH))[0]

    def measure(part: SceneAttention | None) -> tuple[float, float, torch.Tensor]:
        backbone.global_attention, timed.seconds = part, 0.0
        start = time.process_time()
        for _ in backbone.layers(images):
            pass
        found = head(backbone.features())[0]
        return timed.seconds, time.process_time() - start, found
    measure(None), measure(merging)
    seconds = []
    for pair in range(pairs):
        order = (None, merging) if pair % 2 == 0 else (merging, None)
        found = {part is merging: measure(part) for part in order}
        seconds.append([*found[False][:2], *found[True][:2]])
    plain, merged = found[False][2], found[True][2]
    moved = ((merged * (plain.median() / merged.median()) - plain).abs() / plain).mean().item()
    ratios = [median(row[place] / row[place + 2] for row in seconds) for place in (0, 1)]
    names = ('blocks_s', 'pass_s', 'blocks_merged_s', 'pass_merged_s')
    medians = {name: median(row[place] for row in seconds) for place, name in enumerate(names)}
    return dict(block_ratio=ratios[0], pass_ratio=ratios[1], depth_moved=moved, pairs=pairs, **medians)


def depth(views: int, rooms: int, merging: SceneAttention) -> dict:
    """Return the absolute relative error of trained depth, with merging and without: means over `rooms`."""
    model = load_model(load_config(TRAINED / 'config.py'), TRAINED / 'weights.safetensors')
    errors = []
    for room in range(rooms):
        images, true_m = room_views(FIRST_ROOM + room, views, TRAINED_SIZE)
        for part in (None, merging):
            model.backbone.global_attention = part
            found = model.forward_images(images).depth[0]
            errors.append(depth_errors(found.numpy(), true_m)['abs_rel'])
    return dict(abs_rel=mean(errors[0::2]), abs_rel_merged=mean(errors[1::2]), rooms=rooms)


def room_views(seed: int, views: int, size: tuple[int, int]) -> tuple[torch.Tensor, np.ndarray]:
    """Return views of one loop through a built-in room: images (1, V, 3, H, W) in [0, 1], depth (V, H, W) in metres."""
    random = np.random.default_rng(seed)
    room = build_room(random)
    path, renderer = camera_path(room, views, size, random), Renderer(room)
    images, depths = [], []
    for view in range(views):
        seen, index = renderer.trace_view(path, view)
        images.append(develop(renderer.colour(path, view, seen, index), 1.15))
        depths.append(np.nan_to_num(at_pixels(seen), posinf=0.0))
    images = torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).float() / 255                # (V, 3, H, W)
    return images[None], np.stack(depths)


def main() -> None:
    """Parse and run."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--views', type=int, nargs='+', default=[24, 48, 96])
    parser.add_argument('--pairs', type=int, default=5, help='alternating pairs of passes')
    parser.add_argument('--width', type=int, default=192, help='of the tokens; heads have 64')
    parser.add_argument('--depth', type=int, default=4, help='pairs of blocks')
    parser.add_argument('--rooms', type=int, default=4, help='for the depth error')
    parser.add_argument('--ratio', type=float, default=0.9)
    parser.add_argument('--json', type=Path, help='append the records to this list')
    args = parser.parse_args()
    torch.set_num_threads(1)
    load_plugins(['fast_vggt'])
    merging = ATTENTIONS.get('TokenMerging')(ratio=args.ratio)
    with torch.inference_mode():
        for views in args.views:
            figures = times(views, args.pairs, args.width, args.depth, merging) | depth(views, args.rooms, merging)
            publish(dict(views=views, grid=GRID, width=args.width, depth=args.depth, ratio=args.ratio, **figures), args.json)


if __name__ == '__main__':
    main()
