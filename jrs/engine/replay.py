"""Repeats one step of a run that met a number that is not finite, alone and in one process."""

from __future__ import annotations

from pathlib import Path

import torch
from mmengine.config import Config
from mmengine.device import get_device

from jrs.engine.build import build_model
from jrs.engine.nonfinite import read_evidence
from jrs.engine.step import bad_gradients, seed_step
from jrs.errors import NonFiniteError
from jrs.io.weights import load_weights


def replay(cfg: Config, file: Path) -> dict[str, float]:
    """Run forward and backward on the batch of `file`, with the weights and the seed of that step.

    Args:
        cfg: the run's own config; changes, such as ``model.autocast=None``, show what helps.
        file: of the folder `nonfinite` of the run.

    Returns:
        the terms, where everything is finite.

    Raises:
        NonFiniteError: the same fault, or parameters whose gradient is not finite.
        DataError, WeightsError: the file, or the weights beside it, cannot be read.
    """
    kept = read_evidence(file)
    cfg.weights = None
    model = build_model(cfg)
    load_weights(model, kept['weights'])
    model = model.to(get_device()).train()
    seed_step(kept['seed'], kept['rank'], kept['iteration'])
    terms = model(**model.data_preprocessor(kept['batch'], training=True), mode='loss')
    total, shown = model.parse_losses(terms)
    total.backward()
    bad = bad_gradients({name: value.grad for name, value in model.named_parameters() if value.grad is not None})
    if bad:
        raise NonFiniteError(f'the terms of this step are finite, and the gradients of {len(bad)} parameters are not, such '
                             f'as {", ".join(bad[:5])}. Terms: {_plain(shown)}')
    return _plain(shown)


def _plain(terms: dict[str, torch.Tensor]) -> dict[str, float]:
    return {name: float(value.detach()) for name, value in terms.items()}
