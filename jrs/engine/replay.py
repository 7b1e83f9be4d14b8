"""Repeats what a process did in a step that met a number that is not finite, alone."""

from __future__ import annotations

from pathlib import Path

import torch
from mmengine.config import Config
from mmengine.device import get_device

from jrs.engine.build import build_model
from jrs.engine.nonfinite import read_evidence
from jrs.engine.step import bad_gradients, mean_over_batches, seed_step
from jrs.errors import NonFiniteError
from jrs.io.weights import load_weights


def replay(cfg: Config, file: Path) -> dict[str, float]:
    """Run forward and backward on the batches of `file`, with the weights and the seeds of that step.

    Args:
        cfg: the run's own config; changes, such as ``model.autocast=None``, show what helps.
        file: of the folder `nonfinite` of the run.

    Returns:
        the terms, as means over the batches, where everything is finite.

    Raises:
        NonFiniteError: the same fault, or parameters whose gradient is not finite.
        DataError, WeightsError: the file, or the weights beside it, cannot be read.
    """
    kept = read_evidence(file)
    cfg.weights = None
    model = build_model(cfg)
    load_weights(model, kept['weights'])
    model = model.to(get_device()).train()
    found = []
    for batch, slot in zip(kept['batches'], kept['slots'], strict=True):
        seed_step(kept['seed'], slot, kept['iteration'])
        terms = model(**model.data_preprocessor(batch, training=True), mode='loss')
        total, shown = model.parse_losses(terms)
        total.backward()
        bad = bad_gradients({name: value.grad for name, value in model.named_parameters() if value.grad is not None})
        if bad:
            raise NonFiniteError(
                f'the terms of slot {slot} of this step ({", ".join(batch.scene_names)}) are finite, and the gradients of '
                f'{len(bad)} parameters are not, such as {", ".join(bad[:5])}. Terms: {_plain(shown)}')
        found.append({name: value.detach() for name, value in shown.items()})
    return _plain(mean_over_batches(found))


def _plain(terms: dict[str, torch.Tensor]) -> dict[str, float]:
    return {name: float(value.detach()) for name, value in terms.items()}
