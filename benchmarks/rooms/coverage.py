"""What limits average precision: how many true objects any query covers, and what ranking alone could still give.

    python benchmarks/rooms/coverage.py configs/segvggt/all24_fada.py weights/rooms_tiny_all24_fada/weights.safetensors \
        --profile rooms --json FILE

An object is covered where the mask of some query has an IoU above 0.25 or 0.5 with it: in the views, where masks are
predicted (objects as training sees them, masks at 0), and on the mesh, where they are scored. *In one view* asks the same of
each view by itself, where another query may be the best in each, and *where it is seen* of all views together that show the
object: what is lost from there to all views is drawn where the object is not, and how much of the best masks that is stands
beside it. *Oracle ranking* is the class-agnostic average precision of the same masks on the mesh, where those that are
the best of some object rank first, by its IoU, and all others last: what scores alone could still give. *True masks* are
those of the same views, brought to the mesh alike.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from benchmarks.rooms.novel import best_queries, by_view  # noqa: E402
from jrs.benchmarks import Benchmark  # noqa: E402
from jrs.cli.options import add_config_options, config_from  # noqa: E402
from jrs.engine.build import build_evaluator, check_ready, scoring_loader  # noqa: E402
from jrs.engine.inference import load_model  # noqa: E402
from jrs.engine.record import git_state  # noqa: E402
from jrs.evaluation.instance_ap import SceneMatches, evaluate  # noqa: E402
from jrs.evaluation.kept import AGNOSTIC  # noqa: E402
from jrs.io.atomic import atomic_write  # noqa: E402
from jrs.models.targets import instance_targets  # noqa: E402
from jrs.report.render import pipes  # noqa: E402
from jrs.structures import InstanceTargets, QueryPredictions  # noqa: E402

THRESHOLDS = (0.25, 0.5)                       # of the IoU
LEAST = 20                                     # pixels of an object in one view, at the size of the masks
SIZES = ('smallest third', 'middle third', 'largest third')


def main(argv: list[str] | None = None) -> None:
    """Measure, print, and write where asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_config_options(parser)
    parser.add_argument('checkpoint', type=Path, help='weights of the config')
    parser.add_argument('--json', type=Path)
    args = parser.parse_args(argv)
    cfg = config_from(args)
    cfg.weights = cfg.model.teacher = None
    dataset, model = check_ready(cfg, 'test_dataset')['test_dataset'], load_model(cfg, args.checkpoint)
    start = time.process_time()
    found = measured(cfg, model, dataset)
    words = sys.argv[1:] if argv is None else argv
    record = dict(command=['benchmarks/rooms/coverage.py', *map(str, words)], scenes=len(dataset), **git_state(),
                  cpu_seconds=time.process_time() - start, **found)
    print('\n'.join(lines_of(record)))
    if args.json:
        with atomic_write(args.json, 'w') as file:
            file.write(json.dumps(record, indent=1) + '\n')


@torch.no_grad()
def measured(cfg, model: torch.nn.Module, dataset) -> dict:
    """Return how many objects are covered in the views and on the mesh, and average precision by several rankings."""
    metric, = build_evaluator({'instances': dict(cfg.metrics.instances, class_aware=False)}).metrics
    metric.dataset_meta = dataset.metainfo
    in_views, pixels, elsewhere = [], [], []
    some = {}                                  # kind of views -> (IoU, pixels) of the objects of each scene
    for packed in scoring_loader(dataset, 0):
        batch = packed.unpacked()
        predictions = model.forward_images(batch.images)
        target = instance_targets(batch, predictions.features.shape[-2:], model.min_target_pixels)[0]
        queries = predictions.queries.scene(0)
        in_views += best_queries(queries, target)[1].tolist()
        pixels += target.flat_masks.sum(dim=1).tolist()
        for kind, found in in_some_views(queries, target).items():
            some.setdefault(kind, []).append(torch.stack(found))
        elsewhere += drawn_elsewhere(queries, target).tolist()
        metric.process(packed, model.reconstructed(batch, predictions))
    numbers = metric.evaluate(len(dataset))
    scenes = metric.kept.by_kind[AGNOSTIC]
    on_mesh, vertices = (np.concatenate(parts) for parts in zip(*(best_overlaps(scene, metric.benchmark.min_region)
                                                                  for scene in scenes), strict=True))
    return dict(covered={**{kind: covered(*torch.cat(found, dim=1).numpy()) for kind, found in some.items()},
                         'in the views': covered(np.array(in_views), np.array(pixels)),
                         'on the mesh': covered(on_mesh, vertices)}, drawn_elsewhere=float(np.mean(elsewhere)),
                average_precision=dict(as_scored=agnostic(numbers, ''), true_masks=agnostic(numbers, 'oracle_'),
                                       oracle_ranking=oracle_ranking(scenes, metric.benchmark)))


def in_some_views(queries: QueryPredictions, target: InstanceTargets) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
    """Return by the kind of views the best IoU (n,) and the pixels (n,) of objects.

    'in one view': each object in each view that has `LEAST` pixels of it, by itself. 'where it is seen': each object over
    all views that have any of it; what a mask has in the others does not count.
    """
    shared, pixels, areas = by_view(queries, target)
    union = pixels[..., None] + areas - shared                                                  # (G, V, Q)
    shows, seen = pixels >= LEAST, (pixels > 0)[..., None]
    alone, together = shared / union.clamp_min(1), (shared * seen).sum(dim=1) / (union * seen).sum(dim=1).clamp_min(1)
    return {'in one view': (alone.amax(dim=2)[shows], pixels[shows]),
            'where it is seen': (together.amax(dim=1), pixels.sum(dim=1))}


def drawn_elsewhere(queries: QueryPredictions, target: InstanceTargets) -> torch.Tensor:
    """Return of the mask that is the best of each object the share (G,) that lies in views without the object."""
    _, pixels, areas = by_view(queries, target)
    area = areas[:, best_queries(queries, target)[0]].T                                         # (G, V)
    return (area * (pixels == 0)).sum(dim=1) / area.sum(dim=1).clamp_min(1)


def best_overlaps(scene: SceneMatches, min_region: int) -> tuple[np.ndarray, np.ndarray]:
    """Return of each object that counts the best IoU (n,), 0 where none is above 0.25, and its size (n,) in vertices."""
    best = np.zeros(len(scene.object_size))
    np.maximum.at(best, scene.pair_object, scene.pair_iou)
    counts = scene.object_size >= min_region
    return best[counts], scene.object_size[counts]


def covered(best: np.ndarray, sizes: np.ndarray) -> dict:
    """Return how many objects there are, and the share with an IoU (n,) above each threshold: of all, and by size (n,)."""
    thirds = np.array_split(np.argsort(sizes, kind='stable'), len(SIZES))
    groups = {'all': np.arange(len(best)), **dict(zip(SIZES, thirds, strict=True))}
    return {name: dict(objects=len(rows), **{f'above_{threshold}': float((best[rows] > threshold).mean())
                                             for threshold in THRESHOLDS}) for name, rows in groups.items() if len(rows)}


def oracle_ranking(scenes: Sequence[SceneMatches], benchmark: Benchmark) -> dict[str, float]:
    """Return class-agnostic average precision, in percent, where the best prediction of each object ranks by its IoU."""
    ranked = []
    for scene in scenes:
        score, order = np.zeros(len(scene.score)), np.argsort(scene.pair_iou, kind='stable')
        best = dict(zip(scene.pair_object[order].tolist(), order.tolist(), strict=True))       # the last one stays
        for pair in best.values():
            prediction = scene.pair_prediction[pair]
            score[prediction] = max(score[prediction], scene.pair_iou[pair])
        ranked.append(replace(scene, score=score))
    return {name: 100 * value for name, value in evaluate(ranked, benchmark, class_agnostic=True).means.items()}


def agnostic(numbers: dict[str, float], before: str) -> dict[str, float]:
    """Return class-agnostic AP, AP50 and AP25 of a metric's numbers, in percent."""
    return {name: 100 * numbers[f'instance/{before}agnostic_{name}'] for name in ('AP', 'AP50', 'AP25')}


def lines_of(record: dict) -> list[str]:
    """Return the record as two tables."""
    heads = ('objects', 'which', 'number', *(f'with a query above IoU {threshold}' for threshold in THRESHOLDS))
    rows = [[where, name, str(one['objects']), *(f'{one[f"above_{threshold}"]:.1%}' for threshold in THRESHOLDS)]
            for where, groups in record['covered'].items() for name, one in groups.items()]
    scores = [[name.replace('_', ' '), *(f'{one[ap]:.1f}' for ap in ('AP25', 'AP50', 'AP'))]
              for name, one in record['average_precision'].items()]
    elsewhere = f'Of the mask that is the best of an object {record["drawn_elsewhere"]:.0%} lie in views without it (mean).'
    return [*pipes(heads, rows), '', elsewhere, '', *pipes(('class-agnostic', 'AP25', 'AP50', 'AP'), scores)]


if __name__ == '__main__':
    main()
