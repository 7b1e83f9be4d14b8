"""Several queries per instance, and a cost and a loss for masks in views that do not show the instance."""

from jrs.matching.hungarian import CostMatcher
from jrs.registry import COSTS, LOSSES, MATCHERS


def elsewhere(target):
    """Return (G, V*h*w) bool: the mask elements of the views in which an instance cannot be seen."""
    unseen = target.view_visibility == 0                                    # (G, V)
    return unseen[:, :, None, None].expand(target.masks.shape).flatten(1)


@MATCHERS.register_module()
class KNearestMatcher(CostMatcher):
    """Gives each instance up to `k` queries, the cheapest pair of all first; its i-th query counts `decay ** i`."""

    def __init__(self, k=3, decay=0.5, **options):
        super().__init__(**options)
        self.k, self.decay = k, decay

    def assign(self, cost, pred, target):                                   # (Q, G) on the CPU, G > 0
        taken, pairs, weights = [0] * cost.shape[1], {}, []                 # query -> instance, and a weight of each
        for place in cost.flatten().argsort().tolist():
            query, instance = divmod(place, cost.shape[1])
            if query not in pairs and taken[instance] < self.k:
                pairs[query] = instance
                weights.append(self.decay ** taken[instance])
                taken[instance] += 1
        return list(pairs), list(pairs.values()), weights


@COSTS.register_module()
class ElsewhereCost:
    """Which share of a query's mask lies in views that do not show the instance."""

    def __init__(self, weight):
        self.weight = weight

    def __call__(self, pred, target):
        there, whole = 0, 0
        for logits, hidden in pred.masks().pieces(elsewhere(target), target.flat_valid):
            there = there + logits.sigmoid() @ hidden.T                     # (Q, G)
            whole = whole + logits.sigmoid().sum(dim=1, keepdim=True)       # (Q, 1)
        return self.weight * there / whole.clamp_min(1e-6)


@LOSSES.register_module()
class ElsewhereLoss:
    """Which share of a matched mask lies in views that do not show its instance."""

    reads = 'instances'

    def __call__(self, pred, target, match):
        masks, hidden = pred.masks(match.queries), elsewhere(target)[match.instances]
        there = masks.total(lambda logits, hidden: (logits.sigmoid() * hidden).sum(dim=1), hidden, target.flat_valid)
        whole = masks.total(lambda logits, _: logits.sigmoid().sum(dim=1), hidden, target.flat_valid)
        return match.mean(there / whole.clamp_min(1e-6))
