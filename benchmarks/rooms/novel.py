"""How well weights of words (docs/words.md) find and name things whose names no training saw, beside shuffled names.

    python benchmarks/rooms/novel.py configs/segvggt/all24_fada_words.py RUN/weights.safetensors --profile rooms --json FILE

The test data are scored as `tools/test.py` does, once with the names and `--shuffles` times with the novel names dealt out
among each other, so that no novel name keeps its own embedding; known names keep theirs. Masks are the same in all of them,
from one pass. What remains of the average precision of novel names is what chance and the masks give. Besides, at each
true object that some query's mask overlaps with an IoU of at least 0.25, the best of these is asked for its name: among all
names, and among the novel or the known ones alone.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from jrs.cli.options import add_config_options, config_from  # noqa: E402
from jrs.engine.build import build_evaluator, check_ready, scoring_loader  # noqa: E402
from jrs.engine.inference import load_model, weights_card  # noqa: E402
from jrs.engine.record import git_state, read_record  # noqa: E402
from jrs.engine.words import names_in, open_head, tell_metrics, trained_names  # noqa: E402
from jrs.errors import ConfigError  # noqa: E402
from jrs.io.atomic import atomic_write  # noqa: E402
from jrs.models.targets import instance_targets  # noqa: E402
from jrs.structures import InstanceTargets, QueryPredictions  # noqa: E402

SAME_OBJECT = 0.25                             # IoU
OWN = 'names'
CARD = ('experiment', 'seed', 'text_encoder')
MEASURES = ('AP', 'AP50', 'AP25')


def main(argv: list[str] | None = None) -> None:
    """Measure, print, and write where asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_config_options(parser)
    parser.add_argument('checkpoint', type=Path, help='weights of the config, whose classes are words')
    parser.add_argument('--shuffles', type=int, default=10)
    parser.add_argument('--json', type=Path)
    args = parser.parse_args(argv)
    cfg = config_from(args)
    cfg.weights = cfg.model.teacher = None
    dataset, model = check_ready(cfg, 'test_dataset')['test_dataset'], load_model(cfg, args.checkpoint)
    card, names = weights_card(args.checkpoint), names_in(dataset)
    trained = trained_names(cfg, card)
    novel = [name for name in names if name not in trained]
    if open_head(model) is None or len(novel) < 2:
        raise ConfigError('this measures models whose classes are words, on data with at least two novel names')
    start = time.process_time()
    found = measured(cfg, model, dataset, orders(names, novel, args.shuffles), trained)
    words = sys.argv[1:] if argv is None else argv
    record = dict(
        command=['benchmarks/rooms/novel.py', *map(str, words)], cpu_seconds=time.process_time() - start, **git_state(),
        training=read_record(args.checkpoint.parent).get('command', []), iterations=iterations_of(args.checkpoint, card),
        planned_iterations=cfg.train.iterations, scenes=len(dataset), card={key: card.get(key) for key in CARD},
        known=[name for name in names if name in trained], novel=novel, **found)
    print(json.dumps(record, indent=1))
    if args.json:
        with atomic_write(args.json, 'w') as file:
            file.write(json.dumps(record, indent=1) + '\n')


def iterations_of(checkpoint: Path, card: dict) -> int | None:
    """Return how many updates weights have seen, as their card says, or the name of a run's checkpoint; None = not known."""
    found = re.fullmatch(r'iter_(\d+)', checkpoint.stem)
    return card.get('iterations', int(found[1]) if found else None)


def orders(names: Sequence[str], novel: Sequence[str], shuffles: int) -> dict[str, list[str]]:
    """Return by way of naming which name's embedding each class gets: its own, or of novel ones another's."""
    result = {OWN: list(names)}
    for seed in range(shuffles):
        rng, dealt = np.random.default_rng(seed), list(novel)
        while any(one == other for one, other in zip(dealt, novel, strict=True)):
            dealt = rng.permutation(novel).tolist()
        swap = dict(zip(novel, dealt, strict=True))
        result[f'shuffle {seed}'] = [swap.get(name, name) for name in names]
    return result


@torch.no_grad()
def measured(cfg, model: torch.nn.Module, dataset, ways: dict[str, list[str]], trained: Sequence[str]) -> dict:
    """Return average precision and accuracy of names by way of naming, and how many objects there are."""
    metrics, head, names = {}, open_head(model), ways[OWN]
    for way in ways:
        settings = dict(cfg.metrics.instances, oracle=False, class_agnostic=way == OWN)
        metric, = build_evaluator({'instances': settings}).metrics
        metric.dataset_meta = dataset.metainfo
        tell_metrics([metric], model, trained)
        metrics[way] = metric
    is_novel = torch.tensor([name not in trained for name in names])
    asked = {way: [] for way in ways}
    for packed in scoring_loader(dataset, 0):
        batch = packed.unpacked()
        predictions = model.forward_images(batch.images)
        target = instance_targets(batch, predictions.features.shape[-2:], 40)[0]
        query, overlap = best_queries(predictions.queries.scene(0), target)
        hit = overlap >= SAME_OBJECT
        for way, order in ways.items():
            head.use_names(order)
            predictions.queries.class_logits = head(predictions.queries.embedding)
            metrics[way].process(packed, model.reconstructed(batch, predictions))
            logits = predictions.queries.class_logits[0, query[hit], :len(names)]               # (n, K)
            asked[way].append((logits, target.labels[hit]))
    answers = {way: (torch.cat([logits for logits, _ in pairs]), torch.cat([labels for _, labels in pairs]))
               for way, pairs in asked.items()}
    labels = answers[OWN][1]
    counts = {kind: int((is_novel[labels] == flag).sum()) for kind, flag in (('known', False), ('novel', True))}
    return dict(objects_asked=counts, by_way={way: {**average_precision(metrics[way], len(dataset)),
                                                    **accuracy(*answers[way], is_novel)} for way in ways})


def best_queries(queries: QueryPredictions, target: InstanceTargets) -> tuple[torch.Tensor, torch.Tensor]:
    """Return for each of G true objects the query whose mask overlaps it best in the views (G,), and its IoU (G,)."""
    shared, pixels, areas = by_view(queries, target)
    shared = shared.sum(dim=1)                                                                  # (G, Q)
    best = (shared / (pixels.sum(dim=1)[:, None] + areas.sum(dim=0) - shared).clamp_min(1)).max(dim=1)
    return best.indices, best.values


def by_view(queries: QueryPredictions, target: InstanceTargets) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return pixels in each view: of objects and masks in common (G, V, Q), of objects (G, V), and of masks (V, Q)."""
    logits = queries.masks()
    masks = torch.cat([logits.at(piece) > 0 for piece in logits.ranges()], dim=1)               # (Q, V*h*w)
    masks = masks.unflatten(1, (target.num_views, -1)).float()
    true = target.masks.flatten(2).float()                                                      # (G, V, h*w)
    return torch.einsum('gvp,qvp->gvq', true, masks), true.sum(dim=2), masks.sum(dim=2).T


def average_precision(metric, scenes: int) -> dict[str, float]:
    """Return AP of known and novel names, in percent; and of objects of any kind where it was measured."""
    numbers = metric.evaluate(scenes)
    return {f'{kind}_{measure}': 100 * numbers[f'instance/{kind}_{measure}'] for kind in ('known', 'novel', 'agnostic')
            for measure in MEASURES if f'instance/{kind}_{measure}' in numbers}


def accuracy(logits: torch.Tensor, labels: torch.Tensor, is_novel: torch.Tensor) -> dict[str, float]:
    """Return the share of objects (n,) that are named right, in percent: among all K names, and among those of their kind.

    `logits` are (n, K), and `is_novel` (K,) bool.
    """
    found = {}
    for kind, flag in (('known', False), ('novel', True)):
        rows = is_novel[labels] == flag
        own = logits[rows].masked_fill(is_novel != flag, -torch.inf)
        found |= {f'{kind}_named_among_all': share(logits[rows].argmax(dim=1) == labels[rows]),
                  f'{kind}_named_among_{kind}': share(own.argmax(dim=1) == labels[rows])}
    return found


def share(right: torch.Tensor) -> float:
    """Return how many of n answers (n,) bool are right, in percent; NaN of none."""
    return 100 * right.double().mean().item()


if __name__ == '__main__':
    main()
