"""What geometry scores without looking at an image: the mean depth map of the training views, cameras that never turn.

    python benchmarks/rooms/trivial.py configs/geometry/pretrain_rooms.py --profile rooms --json FILE

The map is the mean, pixel by pixel, of training views that are each divided by their scene's median depth. Scored as
`tools/test.py` scores a model. Any model that has learned geometry must beat these numbers.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from jrs.cli.options import add_config_options, config_from  # noqa: E402
from jrs.engine.build import build_dataset, build_evaluator, check_ready  # noqa: E402
from jrs.structures import Reconstruction, SceneBatch, unit_images  # noqa: E402


def main() -> None:
    """Score, print, and write where asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_config_options(parser)
    parser.add_argument('--json', type=Path)
    args = parser.parse_args()
    cfg = config_from(args)
    cfg.weights = cfg.model.teacher = None
    check_ready(cfg, 'test_dataset')
    cfg.training_views = dict(cfg.test_dataset, split='train', limit_scenes=None)
    depth = mean_depth(build_dataset(cfg, 'training_views'))
    evaluator = build_evaluator(dict(depth=cfg.metrics.depth, cameras=cfg.metrics.cameras))
    scenes = build_dataset(cfg, 'test_dataset')
    for index in range(len(scenes)):
        batch = scenes[index]
        evaluator.process(data_batch=batch, data_samples=[trivial(batch, depth)])
    record = dict(command=' '.join(['python', *sys.argv]), config=args.config, profile=args.profile,
                  metrics=evaluator.evaluate(len(scenes)))
    print(json.dumps(record, indent=1))
    if args.json:
        args.json.write_text(json.dumps(record, indent=1) + '\n')


def mean_depth(scenes) -> Tensor:
    """Return the mean map (H, W) over all views of all scenes, each scene in units of its median depth."""
    maps, count = 0, 0
    for index in range(len(scenes)):
        depth = scenes[index].depth_m[0]                                        # (V, H, W)
        valid = depth > 0
        maps = maps + (depth / depth[valid].median() * valid).sum(dim=0)
        count = count + valid.sum(dim=0)
    return maps / count.clamp(min=1)


def trivial(batch: SceneBatch, depth: Tensor) -> Reconstruction:
    """Return the same depth in every view, and cameras that stand still."""
    views = batch.images.shape[1]
    maps = depth.expand(views, -1, -1)
    return Reconstruction(unit_images(batch.images[0]), maps, torch.ones_like(maps), batch.intrinsics[0],
                          torch.eye(4).repeat(views, 1, 1), None, None, batch.view_names[0])


if __name__ == '__main__':
    main()
