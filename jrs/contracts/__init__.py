"""What each slot asks of a part, as code: `tools/plugins.py describe SLOT` prints it, `jrs.registry.build` checks it.

Alphabet: B scenes, V views, H x W pixels, P tokens per view, T tokens of a scene, C width of tokens, L query layers,
Q queries, G true instances, K classes, D channels of instance features, M predicted instances, N points; h x w is the
size of masks.
"""

from jrs.contracts import data, instances, model, scoring
from jrs.contracts.contract import CONTRACTS, Contract, check_part

__all__ = ['CONTRACTS', 'Contract', 'check_part', 'data', 'instances', 'model', 'scoring']
