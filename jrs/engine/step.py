"""One training step, the same for one process, several, and sharded models: forward, agreement, backward, update."""

from __future__ import annotations

import random

import numpy as np
import torch
from mmengine.optim import OptimWrapper
from torch import Tensor, nn

from jrs.engine.processes import agree, mean_over_processes
from jrs.errors import NonFiniteError
from jrs.structures import SceneBatch


class FaultElsewhereError(NonFiniteError):
    """Another process met something that is not finite, and says what."""


def training_step(model: nn.Module, batch: SceneBatch, optim_wrapper: OptimWrapper,
                  stop: int = 0) -> tuple[dict[str, Tensor], int]:
    """Learn from `batch`.

    Args:
        model: a BaseModel, or a wrapper with such a `module`.
        batch: of this process.
        optim_wrapper: updates when it has accumulated enough.
        stop: number of the signal that asks this process to stop, 0 for none.

    Returns:
        the terms, as means over all processes, `loss` is their sum; and the largest `stop` of all processes.

    Raises:
        NonFiniteError: a term, a matching cost or a gradient is not finite, in all processes alike, before the weights
            change; FaultElsewhereError where the cause is in another process.
    """
    inner = getattr(model, 'module', model)
    fault, terms = None, {}
    with optim_wrapper.optim_context(model):
        data = inner.data_preprocessor(batch, training=True)
        try:
            terms = model(**data, mode='loss')
        except NonFiniteError as error:
            fault = error
    faulty, stop = agree(int(fault is not None), stop)
    if faulty:
        raise fault or FaultElsewhereError('another process met something that is not finite in this step; its message says '
                                           'what.')
    total, shown = inner.parse_losses(terms)
    optim_wrapper.update_params(total)
    return mean_over_processes(shown), stop


def seed_step(seed: int, rank: int, iteration: int) -> None:
    """Seed `random`, numpy and torch from (seed, process, iteration), so that no random state needs saving."""
    words = np.random.SeedSequence([seed, rank, iteration]).generate_state(3)
    random.seed(int(words[0]))
    np.random.seed(int(words[1]))
    torch.manual_seed(int(words[2]))


def bad_gradients(gradients: dict[str, Tensor]) -> list[str]:
    """Return the names of those `gradients`, each of its weight's shape such as (C,), that are NaN or infinite somewhere."""
    return [name for name, value in gradients.items() if not value.isfinite().all()]
