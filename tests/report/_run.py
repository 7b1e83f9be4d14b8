"""A run folder as training leaves it, written by hand."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from torch.utils.tensorboard import SummaryWriter


def make_run(path: Path, terms: Mapping[str, Sequence[float]], scalars: Mapping[str, Mapping[int, float]] | None = None,
             metrics: Mapping[str, Mapping[int, float | None]] | None = None, scores: Mapping[str, float] | None = None,
             config: str = 'seed = 0', session: str = '20261122_120000', **record) -> Path:
    """Write config.py, run.json, terms.jsonl, metrics.jsonl, TensorBoard scalars of one session, test scores."""
    path.mkdir(parents=True, exist_ok=True)
    steps = max(map(len, terms.values()), default=0)
    (path / 'config.py').write_text(f'train = dict(iterations={max(steps, 1)})\n{config}\n')
    (path / 'run.json').write_text(json.dumps(dict(dict(finished=True, hours=0.5, peak_memory_gb=1.25, commit='abc',
                                                        dirty=False, device='cpu: x', cores=2), **record)))
    rows = [dict(iteration=step, **{name: values[step] for name, values in terms.items()}) for step in range(steps)]
    (path / 'terms.jsonl').write_text(''.join(json.dumps(row) + '\n' for row in rows))
    validated = sorted({step for values in (metrics or {}).values() for step in values})
    rows = [dict(iteration=step, **{name: values[step] for name, values in metrics.items() if step in values})
            for step in validated]
    (path / 'metrics.jsonl').write_text(''.join(json.dumps(row) + '\n' for row in rows))
    with SummaryWriter(str(path / session / 'vis_data')) as writer:
        for name, values in (scalars or {}).items():
            for step, value in values.items():
                writer.add_scalar(name, value, step)
    if scores is not None:
        (path / 'test').mkdir(exist_ok=True)
        (path / 'test' / 'results.json').write_text(json.dumps(dict(facts={}, metrics=scores)))
    return path
