"""Draws a held-out room as the committed weights see it: views, instances, and the cloud in both colours, from two sides.

    python benchmarks/rooms/picture.py data/rooms/tiny/scene0175_00 --first 12 --views 5 --min-score 0.3 \
        --out docs/rooms/scene0175_00.png
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from jrs.engine.inference import Reconstructor  # noqa: E402
from jrs.geometry.cloud import instance_map  # noqa: E402
from jrs.io.png import write_png8  # noqa: E402
from jrs.visualization.cloud import render_cloud, scene_frame  # noqa: E402
from jrs.visualization.overlays import instance_colours, overlay_masks  # noqa: E402
from jrs.visualization.pictures import scale_to, tile, to_picture  # noqa: E402

VIEW = (168, 224)                              # pixels of a view in the picture
SIDES = ((0.0, 10.0), (35.0, 35.0))            # yaw and pitch of the two looks at the cloud, degrees
OTHERS = 150                                   # grey of what belongs to no instance


def main() -> None:
    """Reconstruct and draw."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('room', type=Path, help='a scene folder; its colour images are all that is read')
    parser.add_argument('--first', type=int, default=0, help='number of the first view')
    parser.add_argument('--views', type=int, default=6)
    parser.add_argument('--step', type=int, default=1, help='every n-th view')
    parser.add_argument('--checkpoint', type=Path, help='default: as tools/infer.py')
    parser.add_argument('--min-score', type=float, default=0.2)
    parser.add_argument('--out', type=Path, required=True)
    args = parser.parse_args()
    photos = sorted((args.room / 'color').iterdir(), key=lambda path: int(path.stem))[args.first::args.step][:args.views]
    reconstruct = Reconstructor(checkpoint=args.checkpoint, agnostic=True, min_score=args.min_score)
    args.out.parent.mkdir(parents=True, exist_ok=True)
    write_png8(args.out, draw(reconstruct(photos)))
    print(f'{args.out}: {len(photos)} views')


def draw(scene) -> np.ndarray:
    """Return the picture of a `Scene`: a row of views, one of instances, and the cloud in colours and in instances."""
    found, cloud = scene.reconstruction, scene.cloud()
    count = len(found.instances.scores)
    palette = np.vstack([np.full((1, 3), OTHERS, np.uint8), instance_colours(count)])       # the first: no instance
    ids = instance_map(found.instances.masks).numpy()                                       # (V, h, w), -1 none
    views = [scale_to(to_picture(image), *VIEW) for image in found.images]
    masks = [overlay_masks(view, scale_to(one, *VIEW, smooth=False), palette[1:])
             for view, one in zip(views, ids, strict=True)]
    rows = tile([*views, *masks], columns=len(views))
    axes, centre, radius = scene_frame(cloud.points, found.cam_from_world)
    height = (rows.shape[1] // 4) * 3 // 4
    looks = [render_cloud(cloud.points, colours, axes, centre, radius, yaw, pitch, (height, rows.shape[1] // 4))
             for colours in (cloud.colours, palette[cloud.instances]) for yaw, pitch in SIDES]
    below = tile(looks, columns=4)
    below = scale_to(below, round(below.shape[0] * rows.shape[1] / below.shape[1]), rows.shape[1])
    return np.vstack([rows, below])


if __name__ == '__main__':
    main()
