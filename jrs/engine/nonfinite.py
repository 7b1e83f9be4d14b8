"""A number that is NaN or infinite: the step is left out or the run stops, and what reproduces it is kept."""

from __future__ import annotations

import logging
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from mmengine.logging import print_log

from jrs.engine.disk import check_space, weights_bytes
from jrs.engine.sharding import whole
from jrs.engine.step import FaultElsewhereError
from jrs.errors import DataError, JrsError, NonFiniteError
from jrs.io.atomic import atomic_write
from jrs.io.weights import save_weights
from jrs.io.weights_file import UNREADABLE
from jrs.structures import InstanceTable, SceneBatch

FOLDER = 'nonfinite'                           # of a run folder
COUNT = 'left_out_steps'                       # in the message hub, so that a resumed run goes on counting


def leave_out_or_stop(runner, batches: Sequence[SceneBatch], slots: Sequence[int], fault: NonFiniteError,
                      limit: int) -> None:
    """Deal with a step that met something that is not finite; its weights are still those before the step.

    Every process calls this in the same step, and the whole update is left out. The batch that has the fault (all batches
    of a process where only their gradient shows it) and the weights are kept in the folder `nonfinite` of the run.

    Args:
        runner: of the training.
        batches: of this process.
        slots: of the update, which they fill.
        fault: what happened.
        limit: steps of the whole run that may be left out.

    Raises:
        NonFiniteError: there have been `limit` before; names iteration, scenes, views and how to repeat the step.
    """
    if fault.place is not None:
        batches, slots = [batches[fault.place]], [slots[fault.place]]
    count = runner.message_hub.runtime_info.get(COUNT, 0) + 1
    where = f'iteration {runner.iter}, process {runner.rank}'
    names = [name for batch in batches for name in batch.scene_names]
    if not isinstance(fault, FaultElsewhereError) and names[0] not in str(fault):
        views = [view for batch in batches for view in batch.view_names]
        where += f', scenes {", ".join(names)}, views {views}'
    text = f'{where}: {fault} {keep_evidence(runner, batches, slots, fault)}'
    if count > limit:
        before = f' {limit} steps had been left out before (train.skip_nonfinite).' if limit else \
            ' train.skip_nonfinite=N would leave out up to N such steps.'
        raise NonFiniteError(text + before) from fault
    runner.message_hub.update_info(COUNT, count)
    runner.optim_wrapper.zero_grad()
    print_log(f'step left out ({count} of at most {limit}): {text}', 'current', logging.WARNING)


def keep_evidence(runner, batches: Sequence[SceneBatch], slots: Sequence[int], fault: NonFiniteError) -> str:
    """Write what repeats the step; return the sentence that says how."""
    folder = Path(runner.work_dir) / FOLDER
    weights, file = folder / f'iter_{runner.iter}_weights.safetensors', folder / f'iter_{runner.iter}_{runner.rank}.pt'
    model = getattr(runner.model, 'module', runner.model)
    state = whole(model.state_dict())                                   # of all processes together where it is sharded
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if runner.rank == 0:
            check_space(folder, weights_bytes(model), 'the weights of this step')
            save_weights(state, weights, {})
        if not isinstance(fault, FaultElsewhereError):
            facts = dict(batches=[plain_batch(batch) for batch in batches], slots=list(slots), iteration=runner.iter,
                         seed=runner.seed, weights=weights.name, fault=str(fault))
            with atomic_write(file) as stream:
                torch.save(facts, stream)
    except (OSError, JrsError) as error:
        return f'What would repeat this step could not be kept: {error}.'
    words = ['python', 'tools/train.py', str(Path(runner.work_dir) / 'config.py'), '--replay', str(file)]
    return '' if isinstance(fault, FaultElsewhereError) else f'This step alone: {shlex.join(words)}'


def plain_batch(batch: SceneBatch) -> dict[str, Any]:
    """Return a training batch as tensors and plain Python, without what only scoring reads."""
    values = {field.name: getattr(batch, field.name) for field in fields(batch) if field.name != 'ground_truth'}
    if batch.instances is not None:
        values['instances'] = [dict(ids=table.ids, labels=table.labels) for table in batch.instances]
    return values


def batch_from(values: Mapping[str, Any]) -> SceneBatch:
    """Return the batch that `plain_batch` took apart."""
    tables = values['instances']
    return SceneBatch(**{**values, 'instances': None if tables is None else [InstanceTable(**table) for table in tables]})


def read_evidence(file: Path) -> dict[str, Any]:
    """Return what `keep_evidence` wrote, `batches` as SceneBatches and `weights` as a path.

    Raises:
        DataError: no such file, or another kind of file.
    """
    try:
        facts = torch.load(file, map_location='cpu', weights_only=True)
        batches = [batch_from(values) for values in facts['batches']]
        return {**facts, 'batches': batches, 'weights': file.parent / facts['weights']}
    except (*UNREADABLE, UnpicklingError, TypeError) as error:
        raise DataError(f'{file} is no step that training has kept ({type(error).__name__}: {error}). Such files are in the '
                        f'folder {FOLDER} of a run that met a number that is not finite.') from error
