"""Parts that score and watch a run: mmengine's metrics and hooks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Protocol

from jrs.contracts.contract import contract, optional

if TYPE_CHECKING:
    from mmengine.runner import Runner
    from torch import Tensor

    from jrs.structures import Reconstruction, SceneBatch


@contract('METRICS')
class Metric(Protocol):
    """Numbers of predicted scenes, as mmengine means metrics.

    `metrics.<name>`; None turns one off. Per batch `process`, at the end `evaluate`. Derive from
    `mmengine.evaluator.BaseMetric` and define `process`, which appends what is small and on the CPU to ``self.results``, and
    `compute_metrics`; or from `jrs.evaluation.metrics.SceneMetric`, which counts each scene once however many processes
    there are, and define `score_scene`, `summarise` and `describe`. ``default_prefix = 'depth'`` makes a name
    `depth/abs_rel`; without it the name is as it is. What a metric of mmengine's base appends, any number of results per
    scene, counts once per scene too; a value that is no number is not logged, and stands with the rules in `results.json`.
    Arguments of its own come beside those of the base: ``def __init__(self, min_score=0.2, **options)`` with
    ``super().__init__(**options)``.

    Attributes:
        reads_matches: True asks the model for `Reconstruction.matched`.
        reads_maps: the maps of the batch that it reads; others need not be loaded, and may be None. `ground_truth` is
            always whole.
    """

    reads_matches: bool = False
    reads_maps: tuple[str, ...] = ('depth_m', 'instance_ids')

    def process(self, data_batch: SceneBatch, data_samples: Sequence[Reconstruction]) -> None:
        """Take note of a batch and of one reconstruction per scene of it; B is 1 in validation and testing.

        The batch is packed, images uint8 and ids int16, on the CPU; ``data_batch.unpacked()`` has what the model saw.
        """

    def evaluate(self, size: int) -> Mapping[str, float]:
        """Return name -> number over all scenes of all processes and start afresh; `size` is the length of the data set."""

    @optional
    def describe(self) -> Mapping[str, str]:
        """Return the rules by which the numbers came about, in words, for tables of results."""


@contract('HOOKS', base='mmengine.hooks.Hook')
class Hook(Protocol):
    """What watches a training run, as mmengine means hooks.

    `hooks.<name>`; None turns one off. A method that is left out is the base class's, which does nothing. mmengine has more
    of them; these are called as written here. `priority` ('VERY_HIGH' .. 'VERY_LOW') orders hooks. To observe terms and
    scores without mmengine, a plugin's `jrs_training_step` and `jrs_evaluation` are enough.

    Attributes:
        reads_maps: the maps of the batches that it reads; others need not be loaded, and may be None. mmengine's hooks read
            none.
    """

    reads_maps: tuple[str, ...] = ('depth_m', 'instance_ids')

    @optional
    def before_run(self, runner: Runner) -> None:
        """Begin: everything is built, nothing is loaded."""

    @optional
    def before_train(self, runner: Runner) -> None:
        """Begin training; after a resume ``runner.iter`` says where."""

    @optional
    def before_train_iter(self, runner: Runner, *, batch_idx: int, data_batch: Sequence[SceneBatch]) -> None:
        """Look at the batches of this process, one per slot of the update, before the step.

        They are packed (images uint8, ids int16) and on the CPU.
        """

    @optional
    def after_train_iter(self, runner: Runner, *, batch_idx: int, data_batch: Sequence[SceneBatch],
                         outputs: dict[str, Tensor]) -> None:
        """Look at an update: `outputs` are its terms, scalars, means over all slots and processes; empty where left out."""

    @optional
    def before_val_epoch(self, runner: Runner) -> None:
        """Begin a validation."""

    @optional
    def after_val_epoch(self, runner: Runner, *, metrics: dict[str, float]) -> None:
        """Look at the numbers of a validation."""

    @optional
    def after_train(self, runner: Runner) -> None:
        """End training."""
