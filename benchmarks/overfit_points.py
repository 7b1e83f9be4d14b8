"""Each method on points, trained on one built-in room and scored on it: AP50 must reach 90.

    python benchmarks/overfit_points.py [--methods mask3d relation3d ...] [--data-root data] [--json FILE]

The networks are those of the profile `rooms`; the room is the first of the training split and is shown as it stands: nothing
is learned that would help in another one. What is shown is that costs, losses, gradients, ranking and scoring of a method
belong together. Needs: python tools/prepare.py rooms --preset tiny --out data/rooms/tiny
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.record import publish  # noqa: E402
from jrs.config import load_config  # noqa: E402
from jrs.datasets.sampling import SampleRequest  # noqa: E402
from jrs.engine.build import build_dataset, build_evaluator, build_model, check_ready  # noqa: E402

BASELINES = Path(__file__).resolve().parents[1] / 'configs' / 'baselines'
METHODS = ('spformer', 'oneformer3d', 'maft', 'queryformer', 'mask3d', 'relation3d', 'sgiformer_l')
ITERATIONS = 300
LIMIT = 90.0


def overfit(method: str, data_root: str, iterations: int) -> dict:
    """Return iterations, CPU seconds, first and last loss, and the scores (percent) of one method on the room it saw."""
    cfg = load_config(BASELINES / f'{method}.py', 'rooms', {
        'data_root': data_root, 'train_dataset.augmentation': None, 'test_dataset.split': 'train',
        'test_dataset.limit_scenes': 1})
    cfg.weights = None
    check_ready(cfg, 'train_dataset')
    torch.manual_seed(0)
    model = build_model(cfg)
    batch = build_dataset(cfg, 'train_dataset')[SampleRequest(0, 0, 1, 1.0)]
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3, weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 2e-3, iterations)
    start, losses = time.process_time(), []
    for _ in range(iterations):
        optimizer.zero_grad()
        loss = sum(value for name, value in model(batch, mode='loss').items() if name.startswith('loss_'))
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 10.0)
        optimizer.step()
        schedule.step()
        losses.append(loss.item())
    seconds = time.process_time() - start
    evaluator = build_evaluator(cfg.metrics)
    scene = build_dataset(cfg, 'test_dataset')[0]
    assert scene.scene_names == batch.scene_names
    evaluator.process(model.eval()(scene, mode='predict'), scene)
    scores = evaluator.evaluate(1)
    return dict(method=method, iterations=iterations, cpu_s=round(seconds, 1), points=sum(batch.num_points),
                superpoints=sum(batch.num_superpoints), instances=len(batch.instances[0].ids),
                loss=[round(losses[0], 2), round(losses[-1], 2)],
                **{name: round(100 * scores[f'instance/{name}'], 1) for name in ('AP', 'AP50', 'agnostic_AP50',
                                                                                 'oracle_agnostic_AP50')})


def main(argv: list[str] | None = None) -> int:
    """Print one record per method; 1 where an AP50 is below the limit."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument('--methods', nargs='+', choices=METHODS, default=METHODS, metavar='METHOD')
    options.add_argument('--iterations', type=int, default=ITERATIONS)
    options.add_argument('--data-root', default='data')
    options.add_argument('--json', type=Path, help='append the records to the list in this file')
    args = options.parse_args(argv)
    torch.set_num_threads(1)
    below = False
    for method in args.methods:
        figures = overfit(method, args.data_root, args.iterations)
        publish(figures, args.json, torch=torch.__version__)
        below |= figures['AP50'] < LIMIT
    return int(below)


if __name__ == '__main__':
    sys.exit(main())
