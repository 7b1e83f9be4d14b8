"""What checkpoints take of the host's memory: a tensor at a time when one is written, one mapping of the file when read."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests._data import ROOT

# A runner's two methods, on weights of 48 MB with two moments: as much as its checkpoint needs, without a training around.
SCRIPT = """
import json, sys, types
from pathlib import Path
import torch
from jrs.engine.console import JrsRunner
mode, path = sys.argv[1], Path(sys.argv[2])

def peak():
    return next(int(line.split()[1]) for line in Path('/proc/self/status').open() if line.startswith('VmHWM')) * 1024

def resident():
    return {name: int(value.split()[0]) * 1024 for name, _, value in
            (line.partition(':') for line in Path('/proc/self/smaps_rollup').open()) if name in ('Rss', 'Anonymous')}

class Quiet:
    distributed = False
    rank, iter, epoch, seed, experiment_name, param_schedulers = 0, 1, 0, 0, 'x', []
    cfg = types.SimpleNamespace(pretty_text='')
    train_dataloader = types.SimpleNamespace(dataset=object())
    logger = types.SimpleNamespace(info=lambda text: None)
    message_hub = types.SimpleNamespace(state_dict=dict)
    call_hook = lambda self, name, checkpoint: None

runner = Quiet()
runner.model = torch.nn.Sequential(*(torch.nn.Linear(1000, 1000, bias=False) for _ in range(12)))
runner.optim_wrapper = torch.optim.AdamW(runner.model.parameters(), lr=1e-3)
if mode == 'save':
    for value in runner.model.parameters():
        value.grad = torch.ones_like(value)
    runner.optim_wrapper.step()
    runner.optim_wrapper.zero_grad()
    before = peak()
    JrsRunner.save_checkpoint(runner, str(path.parent), path.name)
    print(json.dumps(dict(added=peak() - before, file=path.stat().st_size)))
else:
    before = resident()['Anonymous']
    found = JrsRunner.load_checkpoint(runner, str(path))
    runner.optim_wrapper.load_state_dict(found['optimizer'])
    mapped = sum(str(path) in line for line in Path('/proc/self/maps').open())
    print(json.dumps(dict(added=resident()['Anonymous'] - before, file=path.stat().st_size, mapped=mapped)))
"""


def measure(mode: str, path: Path) -> dict:
    done = subprocess.run([sys.executable, '-c', SCRIPT, mode, str(path)], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout)


@pytest.mark.skipif(sys.platform != 'linux', reason='/proc')
def test_a_checkpoint_goes_to_the_disk_piece_by_piece_and_is_mapped_by_those_who_resume(tmp_path):
    path = tmp_path / 'iter_2.pth'
    saved = measure('save', path)
    assert saved['file'] > 140e6 and saved['added'] <= 0.2 * saved['file']
    loaded = measure('load', path)             # as each process of a run does
    assert loaded['mapped'] > 0 and loaded['added'] <= 0.2 * loaded['file']
