"""Trials of metrics and hooks."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from numbers import Real

import torch

from jrs.evaluation.evaluator import SceneEvaluator
from jrs.trials import inputs


def try_metric(part: object) -> Iterator[str]:
    """Two scenes of two views, one after the other, twice, in the evaluator of a run."""
    evaluator = SceneEvaluator([part])
    evaluator.dataset_meta = dict(benchmark='scannet200', classes=(), scene_names=['scene0', 'scene1'])
    runs = []
    for _ in range(2):
        for name in ('scene0', 'scene1'):
            batch = inputs.scene_batch()
            batch.scene_names = [name]
            evaluator.process(data_samples=[inputs.reconstruction()], data_batch=batch)
        runs.append(evaluator.evaluate(2))
    if not runs[0] or not all(isinstance(value, Real) for value in runs[0].values()):
        yield f'evaluate() must give numbers by name, got {runs[0] | evaluator.words!r}'
    if str(runs[0]) != str(runs[1]):                                        # as words, in which NaN equals NaN
        yield f'a second evaluation of the same scenes gives {runs[1]}, the first gave {runs[0]}: it must start afresh'
    words = evaluator.describe()
    if not all(isinstance(word, str) for pair in words.items() for word in pair):
        yield f'describe() must return words by name, got {words!r}'


class _OtherNeedError(AttributeError):
    """A hook asks a stand-in for something that only a real runner has."""


class StandIn:
    """A runner without a run: what hooks mostly read of one."""

    def __init__(self, work_dir: str) -> None:
        self.iter, self.epoch, self.max_iters, self.rank, self.world_size, self.seed = 0, 0, 2, 0, 1, 0
        self.work_dir, self.logger, self.model = work_dir, logging.getLogger('jrs.trials'), torch.nn.Linear(1, 1)

    def __getattr__(self, name: str) -> object:
        raise _OtherNeedError(name)


def try_hook(part: object) -> Iterator[str]:
    """The calls of a training of one step; what reads more of the runner than a stand-in has is not tried further."""
    with tempfile.TemporaryDirectory() as folder, suppress(_OtherNeedError):
        _step(part, StandIn(folder))
    yield from ()


def _step(part: object, runner: StandIn) -> None:
    batch, outputs = inputs.scene_batch(), dict(loss=torch.tensor(1.0), loss_depth=torch.tensor(1.0))
    part.before_run(runner)
    part.before_train(runner)
    part.before_train_iter(runner, batch_idx=0, data_batch=[batch])
    part.after_train_iter(runner, batch_idx=0, data_batch=[batch], outputs=outputs)
    part.after_train_iter(runner, batch_idx=1, data_batch=[batch], outputs={})
    part.before_val_epoch(runner)
    part.after_val_epoch(runner, metrics={'depth/abs_rel': 0.5})
    part.after_train(runner)


TRIALS = {'METRICS': try_metric, 'HOOKS': try_hook}
