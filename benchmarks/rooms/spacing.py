"""Rotation errors against the distance of views: windows of four held-out views, every k-th of the recording.

    python benchmarks/rooms/spacing.py configs/geometry/pretrain_rooms.py WEIGHTS --profile rooms --json FILE

The test of a config spreads its views over the whole walk, where most pairs share nothing. Here windows are as training
draws them, so that it shows from which distance on a model loses track. Identity is what cameras that never turn would have.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from jrs.cli.options import add_config_options, config_from  # noqa: E402
from jrs.engine.build import build_dataset, check_ready  # noqa: E402
from jrs.engine.inference import load_model  # noqa: E402
from jrs.evaluation.cameras import relative_pose_errors  # noqa: E402
from jrs.geometry.camera import decode_cameras  # noqa: E402

VIEWS, STEPS = 4, (1, 2, 3, 4, 6)
WINDOWS = 4                                    # per room and step, evenly along the walk


def main(argv: list[str] | None = None) -> None:
    """Score, print, and write where asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_config_options(parser)
    parser.add_argument('checkpoint', type=Path, help='weights of the config')
    parser.add_argument('--steps', type=int, nargs='+', default=STEPS, help='between the views of a window')
    parser.add_argument('--json', type=Path)
    args = parser.parse_args(argv)
    cfg = config_from(args)
    cfg.weights = cfg.model.teacher = cfg.test_dataset.max_views = None
    check_ready(cfg, 'test_dataset')
    model, scenes = load_model(cfg, args.checkpoint), build_dataset(cfg, 'test_dataset')
    errors: dict[int, list] = {step: [] for step in args.steps}
    for index in range(len(scenes)):
        batch = scenes[index]
        for step in args.steps:
            errors[step] += [window_errors(model, batch, views) for views in windows(batch.images.shape[1], step)]
    rows = [dict(step=step, **summary(np.concatenate(found, axis=1))) for step, found in errors.items()]
    words = sys.argv[1:] if argv is None else argv
    record = dict(command=['benchmarks/rooms/spacing.py', *words], views=VIEWS, rooms=len(scenes), steps=rows)
    print(json.dumps(record, indent=1))
    if args.json:
        args.json.write_text(json.dumps(record, indent=1) + '\n')


def windows(num_frames: int, step: int) -> list[np.ndarray]:
    """Return windows of VIEWS frames, `step` apart, spread evenly over the recording."""
    last = num_frames - 1 - step * (VIEWS - 1)
    starts = np.linspace(0, last, WINDOWS).round().astype(int) if last >= 0 else []
    return [start + step * np.arange(VIEWS) for start in starts]


@torch.no_grad()
def window_errors(model, batch, views: np.ndarray) -> np.ndarray:
    """Return rotation errors in degrees of the model and of identity, (2, pairs)."""
    images = batch.images[:, views]
    encodings = model.forward_images(images).pose_encodings[-1]
    predicted = decode_cameras(encodings, images.shape[-2:])[0][0].numpy()
    true = batch.cam_from_world[0, views].numpy()
    still = np.broadcast_to(np.eye(4), true.shape)
    return np.stack([relative_pose_errors(cameras, true)[0] for cameras in (predicted, still)])


def summary(errors: np.ndarray) -> dict[str, float]:
    """Return medians in degrees and their ratio, and the share within 15 degrees, from (2, pairs)."""
    own, still = np.median(errors, axis=1)
    return dict(rotation_median=float(own), rotation_median_identity=float(still), ratio=float(own / still),
                rra15=float((errors[0] < 15).mean()), rra15_identity=float((errors[1] < 15).mean()), pairs=errors.shape[1])


if __name__ == '__main__':
    main()
