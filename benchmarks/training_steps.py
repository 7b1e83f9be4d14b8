"""Training steps of two checkouts beside each other: CPU time by alternating pairs, and the losses of the first iterations.

    git worktree add /tmp/before f114031
    python benchmarks/training_steps.py /tmp/before --data-root data --pairs 15      # rooms/tiny, prepared

Two processes, one per checkout, run in turns, one thread each. Both start from the same weights and get the same batches,
both of which this checkout draws: initialisation differs between checkouts, and loading is not measured. A step is forward
pass, teacher, matching, losses, backward pass, clipping and update. `--json FILE` appends the record to a list.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

ROOT = Path(__file__).resolve().parents[1]
CONFIG = 'configs/segvggt/all24_fada.py'


def write_inputs(path: Path, data_root: str, folder: str, profile: str, count: int) -> None:
    """Write the initial weights and the first `count` batches of a training on the data as plain tensors."""
    import torch

    from jrs.config import load_config
    from jrs.engine.build import build_dataset, build_model, training_loader
    cfg = load_config(CONFIG, profile=profile, overrides={'data_root': data_root, 'train_dataset.folder': folder})
    loader = iter(training_loader(cfg, build_dataset(cfg, 'train_dataset')))
    batches = [next(loader).unpacked() for _ in range(count)]
    plain = [dict(images=batch.images, ids=batch.instance_ids, scenes=batch.scene_names, views=batch.view_names,
                  tables=[(table.ids, table.labels) for table in batch.instances]) for batch in batches]
    torch.manual_seed(0)
    torch.save(dict(weights=build_model(cfg).state_dict(), batches=plain), path)


def child(inputs: Path, profile: str) -> None:
    """Answer lines of standard input: each with the CPU seconds and the loss of the next step."""
    import torch
    from mmengine.logging import MessageHub

    from jrs.config import load_config
    from jrs.engine import memory
    from jrs.engine.build import build_model, build_optimizer
    from jrs.structures import InstanceTable, SceneBatch
    getattr(memory, 'kept_allocations', bool)()                                 # as tools/train.py does, if it does
    cfg = load_config(CONFIG, profile=profile)
    inputs = torch.load(inputs, weights_only=True)
    model = build_model(cfg).train()
    model.load_state_dict(inputs['weights'])
    settings = cfg.train
    options = {} if 'slots' in cfg.batches else dict(accumulate=1)              # older checkouts count batches there
    wrapper = build_optimizer(model, cfg.optimizer, cfg.parameter_groups, settings.clip_norm, **options)
    MessageHub.get_current_instance()
    given = [SceneBatch(one['images'], one['scenes'], one['views'], instance_ids=one['ids'],
                        instances=[InstanceTable(*table) for table in one['tables']])
             for one in inputs['batches']]
    for step, _ in enumerate(sys.stdin):
        start = time.process_time()
        total, terms = model.parse_losses(model(batch=given[step % len(given)], mode='loss'))
        wrapper.update_params(total)
        seconds = time.process_time() - start
        print(json.dumps(dict(seconds=seconds, loss=float(terms['loss'].detach()))), flush=True)


class Checkout:
    """A child process of a checkout."""

    def __init__(self, folder: Path, inputs: Path, profile: str) -> None:
        command = [sys.executable, __file__, '--child', str(inputs), '--profile', profile]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=folder,
                                        env={'PYTHONPATH': str(folder), 'OMP_NUM_THREADS': '1', 'PATH': ''})

    def step(self) -> dict:
        """Return seconds and loss of the next step; what else the process says is left out."""
        self.process.stdin.write('step\n')
        self.process.stdin.flush()
        for line in self.process.stdout:
            if line.startswith('{"seconds"'):
                return json.loads(line)
        raise SystemExit(f'{self.process.args} ended')


def compare(before: Path, inputs: Path, profile: str, pairs: int, warmup: int) -> dict:
    """Return CPU seconds of both by pairs after `warmup` ones, the median ratio of rates, and how far losses are apart."""
    sides = [Checkout(folder, inputs, profile) for folder in (before, ROOT)]
    found = []
    for pair in range(warmup + pairs):
        order = sides if pair % 2 == 0 else sides[::-1]
        answers = {id(side): side.step() for side in order}
        found.append([answers[id(side)] for side in sides])
    for side in sides:
        side.process.communicate()
    seconds = [[one['seconds'] for one in pair] for pair in found[warmup:]]
    losses = [[one['loss'] for one in pair] for pair in found]
    return dict(profile=profile, pairs=pairs, before_s=median(old for old, _ in seconds),
                now_s=median(new for _, new in seconds), rate=median(old / new for old, new in seconds), seconds=seconds,
                losses=losses,
                loss_apart=max(abs(new - old) / abs(old) for old, new in losses))


def main() -> None:
    """Parse and run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('before', type=Path, nargs='?', help='the other checkout')
    parser.add_argument('--data-root', default='data')
    parser.add_argument('--folder', default='rooms/tiny')
    parser.add_argument('--profile', default='rooms')
    parser.add_argument('--pairs', type=int, default=15)
    parser.add_argument('--warmup', type=int, default=5, help='pairs of which only the losses are kept')
    parser.add_argument('--json', type=Path)
    parser.add_argument('--child', type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        child(args.child, args.profile)
        return
    sys.path.insert(0, str(ROOT))
    from benchmarks.record import publish
    with tempfile.TemporaryDirectory() as folder:
        inputs = Path(folder) / 'inputs.pt'
        write_inputs(inputs, args.data_root, args.folder, args.profile, args.pairs + args.warmup)
        publish(compare(args.before.resolve(), inputs, args.profile, args.pairs, args.warmup), args.json)


if __name__ == '__main__':
    main()
