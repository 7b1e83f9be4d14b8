"""How much FADA's term says beside the mask terms, in each reading of its lost formula, and what its cost changes.

    python benchmarks/rooms/gradients.py configs/segvggt/all24_fada.py weights/rooms_tiny_all24_fada/weights.safetensors \
        --profile rooms --json FILE

Batches are the first that training would see. Gradients are of all parameters of the queries together; the ratio is of their
norms, median over batches. A pair is "elsewhere" where the instance gets another query than without FADA's cost.
"""

from __future__ import annotations

import argparse
import json
import sys
from itertools import islice
from pathlib import Path
from statistics import median

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from jrs.alignment.cost import ViewAttentionCost  # noqa: E402
from jrs.alignment.loss import ViewAttentionLoss  # noqa: E402
from jrs.cli.options import add_config_options, config_from  # noqa: E402
from jrs.engine.build import check_ready, training_loader  # noqa: E402
from jrs.engine.inference import load_model  # noqa: E402
from jrs.io.atomic import atomic_write  # noqa: E402
from jrs.models.targets import instance_targets  # noqa: E402
from jrs.structures import Match  # noqa: E402

MASKS = ('mask_bce', 'mask_dice')
READINGS = [(reduction, per_view) for reduction in ('mean', 'sum') for per_view in (True, False)]
COST_WEIGHTS = (1, 10, 100)                    # times that of the config


def main(argv: list[str] | None = None) -> None:
    """Measure, print, and write where asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_config_options(parser)
    parser.add_argument('checkpoint', type=Path, help='weights of the config')
    parser.add_argument('--batches', type=int, default=20)
    parser.add_argument('--json', type=Path)
    args = parser.parse_args(argv)
    cfg = config_from(args)
    cfg.weights = cfg.model.teacher = None
    model = load_model(cfg, args.checkpoint)
    batches = list(islice(training_loader(cfg, check_ready(cfg, 'train_dataset')['train_dataset']), args.batches))
    seen = [of_batch(model, batch) for batch in batches]
    words = sys.argv[1:] if argv is None else argv
    record = dict(command=['benchmarks/rooms/gradients.py', *words], batches=len(seen), readings=[
        dict(reduction=reduction, per_view=per_view, weight=model.criterion.weights['fada'],
             to_masks=median(one['losses'][reduction, per_view] for one in seen)) for reduction, per_view in READINGS],
        costs=[dict(per_view=per_view, weight=factor * model.matcher.costs['fada'].weight,
                    elsewhere=sum(one['elsewhere'][per_view, factor] for one in seen) / sum(one['pairs'] for one in seen))
               for per_view in (True, False) for factor in COST_WEIGHTS], pairs=sum(one['pairs'] for one in seen))
    print(json.dumps(record, indent=1))
    if args.json:
        with atomic_write(args.json, 'w') as file:
            file.write(json.dumps(record, indent=1) + '\n')


def of_batch(model: torch.nn.Module, batch) -> dict:
    """Return norms of FADA's gradient over that of the mask terms, by reading, and how many pairs its cost moves."""
    model.train()
    batch = batch.unpacked()
    predictions = model.forward_images(batch.images, track_views=True)
    targets = instance_targets(batch, predictions.features.shape[-2:], model.min_target_pixels)
    matches = model.match(predictions.queries, targets)
    scenes = [(predictions.queries.scene(index), target) for index, target in enumerate(targets)]

    def norm(terms) -> float:
        """Of the gradient that a mean over scenes of weighted terms has on the queries' parameters."""
        values = [weight * value / len(scenes) for weight, loss in terms for (pred, target), match in
                  zip(scenes, matches, strict=True) if (value := loss(pred, target, match)) is not None]
        own = [parameter for parameter in model.queries.parameters() if parameter.requires_grad]
        found = torch.autograd.grad(sum(values), own, retain_graph=True, allow_unused=True)
        return torch.stack([gradient.norm() for gradient in found if gradient is not None]).norm().item()

    weights = model.criterion.weights
    masks = norm([(weights[name], model.criterion.losses[name]) for name in MASKS])
    losses = {reading: norm([(weights['fada'], ViewAttentionLoss(model.alignment, *reading))]) / masks
              for reading in READINGS}
    elsewhere = {(per_view, factor): sum(moved(model, scene, per_view, factor) for scene in scenes)
                 for per_view in (True, False) for factor in COST_WEIGHTS}
    return dict(losses=losses, elsewhere=elsewhere, pairs=sum(len(match.queries) for match in matches))


@torch.no_grad()
def moved(model: torch.nn.Module, scene: tuple, per_view: bool, factor: float) -> int:
    """Return how many instances of a scene get another query by a cost of FADA `factor` times as heavy than without one."""
    costs = model.matcher.costs
    own = ViewAttentionCost(model.alignment, factor * costs['fada'].weight, per_view)
    without, with_it = ({name: cost for name, cost in costs.items() if name != 'fada'} | more
                        for more in ({}, {'fada': own}))
    found = []
    for model.matcher.costs in (without, with_it):
        match: Match = model.matcher(*scene)
        found.append(dict(zip(match.instances.tolist(), match.queries.tolist(), strict=True)))
    model.matcher.costs = costs
    return sum(query != found[0][instance] for instance, query in found[1].items() if instance in found[0])


if __name__ == '__main__':
    main()
