"""A tiny data set for whole runs, the command lines that use it, and small batches for single parts."""

from __future__ import annotations

import importlib
import os
import shutil
import sys
from pathlib import Path

import torch
from mmengine.logging import MessageHub, MMLogger
from mmengine.registry import DefaultScope
from mmengine.visualization import Visualizer

from jrs.cli import run
from jrs.structures import InstanceTable, SceneBatch

ROOT = Path(__file__).resolve().parents[1]
MAIN = ROOT / 'configs' / 'segvggt' / 'all24_fada.py'
SCANS = ('scene0000_00', 'scene0001_00', 'scene0002_00')


def make_data(shared: Path, own: Path) -> Path:
    """Return a data root with `rooms/debug` in `shared`, prepared in `own` by whoever comes first."""
    from jrs.datasets.prepare.scannet import prepare_scannet
    from tests.datasets._raw_scan import write_raw
    target = shared / 'debug_data'
    if not target.is_dir():
        write_raw(own / 'raw', SCANS)
        summary = prepare_scannet(own / 'raw', own / 'data' / 'rooms' / 'debug', every=1)
        assert summary.failed == {}, summary.failed
        try:
            os.rename(own / 'data', target)                       # atomic: of several processes one wins
        except OSError:
            shutil.rmtree(own / 'data')
    return target


def command(name: str, *words) -> int:
    """Run ``jrs NAME WORDS`` in this process as `tools/NAME.py` does; returns the exit code, argparse's included."""
    forget_runs()
    main = importlib.import_module(f'jrs.cli.{name}').main
    try:
        return run(main, [str(word) for word in words])
    except SystemExit as stop:
        return stop.code


def forget_runs() -> None:
    """Drop what mmengine keeps of earlier runs of this process under names made of the time in seconds."""
    for kind in (MMLogger, MessageHub, Visualizer, DefaultScope):
        kind._instance_dict.clear()


def tool(name: str, *words) -> list[str]:
    """Return the words of ``python tools/NAME.py WORDS`` for a process of its own."""
    return [sys.executable, str(ROOT / 'tools' / f'{name}.py'), *map(str, words)]


def random_batch(num_views: int = 3, num_instances: int = 3, size: int = 56, num_scenes: int = 1,
                 num_classes: int = 5) -> SceneBatch:
    """Return a batch with depth, cameras and instances as blocks that some views do not show."""
    generator = torch.Generator().manual_seed(3)
    shape = (num_scenes, num_views)
    ids = torch.zeros(*shape, size, size, dtype=torch.int64)
    for number in range(num_instances):
        ids[:, number % num_views::2, 4 + 12 * number:14 + 12 * number, 8:40] = number + 1
    cam_from_world = torch.eye(4).expand(*shape, 4, 4).clone()
    cam_from_world[..., 0, 3] = 0.2 * torch.arange(num_views)
    intrinsics = torch.tensor([[size, 0, size / 2], [0, size, size / 2], [0, 0, 1.0]]).expand(*shape, 3, 3)
    table = InstanceTable(torch.arange(1, num_instances + 1), torch.arange(num_instances) % num_classes)
    return SceneBatch(
        images=torch.rand(*shape, 3, size, size, generator=generator), scene_names=[f's{i}' for i in range(num_scenes)],
        view_names=[[str(view) for view in range(num_views)]] * num_scenes,
        depth_m=1 + torch.rand(*shape, size, size, generator=generator), intrinsics=intrinsics,
        cam_from_world=cam_from_world, instance_ids=ids, instances=[table] * num_scenes)
