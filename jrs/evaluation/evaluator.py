"""Metrics of ours and of mmengine side by side: every scene counts once, and hooks and files get plain numbers."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from mmengine.evaluator import BaseMetric, Evaluator

from jrs.errors import PluginError
from jrs.evaluation.metrics import SceneMetric
from jrs.structures import Reconstruction, SceneBatch, maps_read


class PlainMetric(SceneMetric):
    """Lets a metric that knows mmengine's base class only count each scene once, in any number of processes.

    mmengine itself cuts the collected results off after as many as there are scenes, and counts a scene twice that two
    processes have seen.

    Args:
        metric: with `process` and `compute_metrics`; `describe()`, `reads_matches` and `reads_maps` count where it has them.
    """

    def __init__(self, metric: BaseMetric) -> None:
        self.metric = metric
        # mmengine warns of a metric without a prefix, and has done so of `metric` if it has none.
        super().__init__(metric.collect_device, metric.prefix or type(metric).__name__, metric.collect_dir)
        self.prefix = metric.prefix

    @property
    def dataset_meta(self) -> dict | None:
        """What the data set says of itself; the metric sees it as its own."""
        return self.metric.dataset_meta

    @dataset_meta.setter
    def dataset_meta(self, meta: dict | None) -> None:
        """Tell the metric."""
        self.metric.dataset_meta = meta

    @property
    def reads_matches(self) -> bool:
        """See `jrs.engine.hooks.MetricNeeds`."""
        return getattr(self.metric, 'reads_matches', False)

    @property
    def reads_maps(self) -> Collection[str]:
        """What `maps_read` says of the metric."""
        return maps_read([self.metric])

    def process(self, data_batch: SceneBatch, data_samples: Sequence[Reconstruction]) -> None:
        """Keep what the metric appends to its results for these scenes."""
        self.metric.results = []
        self.metric.process(data_batch, data_samples)
        self.results.append((tuple(data_batch.scene_names), self.metric.results))

    def summarise(self, scenes: list[list[Any]]) -> Mapping[str, Any]:
        """Return what the metric computes from the results of all scenes, in the order of their names.

        Raises:
            PluginError: that is no mapping.
        """
        found = self.metric.compute_metrics([result for scene in scenes for result in scene])
        if not isinstance(found, Mapping):
            raise PluginError(f'{type(self.metric).__name__}.compute_metrics returned {found!r}: it must return a mapping '
                              'name -> number.')
        return found

    def describe(self) -> dict[str, str]:
        """Return the metric's rules in words, none where it states none."""
        return rules_of(self.metric)


class SceneEvaluator(Evaluator):
    """mmengine's evaluator, whose results are numbers; what else a metric returns is kept as `words`.

    Args:
        metrics: of ours or mmengine's; one that brings its own `evaluate` is left as it is.
    """

    def __init__(self, metrics: Sequence[BaseMetric]) -> None:
        super().__init__([metric if type(metric).evaluate is not BaseMetric.evaluate else PlainMetric(metric)
                          for metric in metrics])
        self.words: dict[str, str] = {}

    def evaluate(self, size: int) -> dict[str, float]:
        """Return the numbers over all scenes."""
        found = super().evaluate(size)
        numbers = {name: _number(value) for name, value in found.items()}
        self.words = {name: str(found[name]) for name, number in numbers.items() if number is None}
        return {name: number for name, number in numbers.items() if number is not None}

    def describe(self) -> dict[str, str]:
        """Return the rules of all metrics in words, and what they found that is no number."""
        return {name: words for metric in self.metrics for name, words in rules_of(metric).items()} | self.words


def rules_of(metric: BaseMetric) -> Mapping[str, str]:
    """Return a metric's rules in words; a metric without `describe` states none."""
    if isinstance(metric, SceneMetric):
        return metric.rules()
    return metric.describe() if hasattr(metric, 'describe') else {}


def _number(value: Any) -> float | None:
    """Return a number, also of numpy or a tensor of one element, as a float; None for anything else."""
    try:
        return None if isinstance(value, str) else float(value)
    except (TypeError, ValueError, RuntimeError):
        return None
