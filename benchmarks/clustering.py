"""Time and memory of IGGT's clusters on a built-in room with an embedding made of true instances and noise.

python benchmarks/clustering.py --data data                           20 views of 112 x 84, as the config has it
python benchmarks/clustering.py --data data --max-clustered 200000    all pixels are clustered
"""

from __future__ import annotations

import argparse
import resource
import sys
import time
from pathlib import Path

import torch
from torch.nn import functional as F

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks.record import publish  # noqa: E402
from jrs.config import load_config  # noqa: E402
from jrs.engine.build import build_dataset  # noqa: E402
from jrs.registry import POSTPROCESSORS, build  # noqa: E402
from jrs.structures import SceneBatch, SceneContext  # noqa: E402


def main() -> None:
    """Cluster one scene in one thread; print how, and the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--data', type=Path, default=ROOT / 'data', help='data root with rooms/tiny')
    parser.add_argument('--views', type=int, default=20)
    parser.add_argument('--noise', type=float, default=0.1, help='deviation of each channel beside a vector of length 1')
    parser.add_argument('--max-clustered', type=int, default=50000, help='model.postprocessor.max_clustered')
    parser.add_argument('--out', type=Path, help='list of records to append to')
    args = parser.parse_args()
    torch.set_num_threads(1)
    cfg = load_config(ROOT / 'configs/baselines/iggt.py', overrides={
        'data_root': str(args.data), 'test_dataset.folder': 'rooms/tiny', 'test_dataset.width': 112, 'test_dataset.every': 1,
        'test_dataset.max_views': args.views})
    scene = scene_of(build_dataset(cfg, 'test_dataset')[0], args.noise)
    part = build(POSTPROCESSORS, dict(cfg.model.postprocessor, max_clustered=args.max_clustered), 'model.postprocessor')
    begun, used = time.perf_counter(), time.process_time()
    found = part(scene)
    views, _, height, width = scene.features.shape
    publish(dict(
        views=views, size=[height, width], pixels=views * height * width, clusters=len(found), ranking=found.ranking,
        seconds=round(time.perf_counter() - begun, 1), cpu_seconds=round(time.process_time() - used, 1),
        peak_gb=round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9, 2),
        settings={name: getattr(part, name) for name in ('neighbours', 'epsilon', 'min_samples', 'min_cluster_size',
                                                         'max_clustered')}), args.out)


def scene_of(batch: SceneBatch, noise: float) -> SceneContext:
    """Return a scene (B = 1) with true geometry, and one direction per instance, with noise, as the embedding."""
    ids, generator = batch.instance_ids[0].long().clamp_min(0), torch.Generator().manual_seed(0)   # (V, H, W)
    directions = F.normalize(torch.randn(int(ids.max()) + 1, 8, generator=generator), dim=1)
    features = directions[ids] + noise * torch.randn(*ids.shape, 8, generator=generator)            # (V, H, W, 8)
    return SceneContext(features=F.normalize(features, dim=-1).movedim(-1, 1), image_size=tuple(ids.shape[1:]),
                        depth=batch.depth_m[0], intrinsics=batch.intrinsics[0], cam_from_world=batch.cam_from_world[0],
                        scene_name=batch.scene_names[0])


if __name__ == '__main__':
    main()
