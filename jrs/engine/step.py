"""One update of the weights, the same for one process, several, and sharded models.

Each batch: forward, agreement, backward; then the weights change once.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext

import numpy as np
import torch
from mmengine.optim import OptimWrapper
from torch import Tensor, nn

from jrs.engine.processes import agree, mean_over_processes
from jrs.errors import NonFiniteError
from jrs.structures import SceneBatch


class FaultElsewhereError(NonFiniteError):
    """Another process met something that is not finite, and says what."""


def training_step(model: nn.Module, batches: Sequence[SceneBatch], optim_wrapper: OptimWrapper,
                  seeds: Sequence[tuple[int, int, int]] = (), stop: Callable[[], int] = lambda: 0,
                  after_batch: Callable[[], None] = lambda: None) -> tuple[dict[str, Tensor], int]:
    """Change the weights once, by the mean gradient of `batches`, which are gone through one after another.

    Args:
        model: a BaseModel, or a wrapper with such a `module`.
        batches: the slots of the update that this process takes.
        optim_wrapper: of the model's optimizer.
        seeds: of each batch, see `seed_step`; none to leave random states as they are.
        stop: returns the number of the signal that asks this process to stop, 0 for none.
        after_batch: called when a batch is done.

    Returns:
        the terms, as means over all slots of all processes, `loss` is their sum; and the largest `stop` of all processes.

    Raises:
        NonFiniteError: a term, a matching cost or a gradient is not finite, in all processes alike, before the weights
            change; FaultElsewhereError where the cause is in another process.
    """
    found, number = [], 0
    for place, batch in enumerate(batches):
        with nullcontext() if place + 1 == len(batches) else _gradients_stay_here(model):
            if seeds:
                seed_step(*seeds[place])
            total, shown, number = _forward(model, batch, place, stop())
            optim_wrapper.backward(total / len(batches))
        found.append({name: value.detach() for name, value in shown.items()})
        after_batch()
    optim_wrapper.step()
    optim_wrapper.zero_grad()
    return mean_over_processes(mean_over_batches(found)), number


def _gradients_stay_here(model: nn.Module) -> AbstractContextManager:
    """Return the context in which DDP only adds up; a sharded model reduces every time: whole gradients have no room."""
    return model.no_sync() if hasattr(model, 'no_sync') else nullcontext()


def _forward(model: nn.Module, batch: SceneBatch, place: int, stop: int) -> tuple[Tensor, dict[str, Tensor], int]:
    """Return the loss of one batch, its terms, and the largest `stop` of all processes."""
    inner = getattr(model, 'module', model)
    fault, terms = None, {}
    data = inner.data_preprocessor(batch, training=True)
    try:
        terms = model(**data, mode='loss')
    except NonFiniteError as error:
        fault = error
    faulty, stop = agree(int(fault is not None), stop)
    if faulty:
        fault = fault or FaultElsewhereError('another process met something that is not finite in this step; its message '
                                             'says what.')
        fault.place = place
        raise fault
    return *inner.parse_losses(terms), stop


def mean_over_batches(found: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    """Return the mean of each term, a scalar (), over the batches that have it, () too."""
    names = dict.fromkeys(name for terms in found for name in terms)
    values = {name: [terms[name] for terms in found if name in terms] for name in names}
    return {name: sum(each) / len(each) for name, each in values.items()}


def seed_step(seed: int, slot: int, update: int) -> None:
    """Seed `random`, numpy and torch from (seed, slot, update), so that no random state needs saving.

    What a slot draws does not depend on the process that takes it, nor on what it took before.
    """
    words = np.random.SeedSequence([seed, slot, update]).generate_state(3)
    random.seed(int(words[0]))
    np.random.seed(int(words[1]))
    torch.manual_seed(int(words[2]))


def bad_gradients(gradients: dict[str, Tensor]) -> list[str]:
    """Return the names of those `gradients`, each of its weight's shape such as (C,), that are NaN or infinite somewhere."""
    return [name for name, value in gradients.items() if not value.isfinite().all()]
