"""A metric on mmengine's base class counts instances, and says what it must return."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from mmengine.evaluator import BaseMetric

from jrs.errors import PluginError
from jrs.evaluation.evaluator import SceneEvaluator
from jrs.plugins import load_plugins
from jrs.registry import METRICS, build
from jrs.trials import inputs


def evaluated(*metrics) -> dict[str, float]:
    """Return the numbers of one scene of two true and two predicted instances, which score 0.9 and 0.5."""
    evaluator = SceneEvaluator(metrics)
    evaluator.process(data_samples=[inputs.reconstruction()], data_batch=inputs.scene_batch())
    return evaluator.evaluate(1)


def test_the_error_is_that_of_the_number_of_instances(fresh):
    load_plugins([str(Path(__file__).with_name('instance_count_metric.py'))])
    for score, error in ((0.4, 0), (0.6, 1), (0.95, 2)):
        metric = build(METRICS, dict(type='InstanceCount', min_score=score), 'metrics.count')
        assert evaluated(metric) == {'count/mae': error}


@pytest.mark.parametrize('found', [None, 3.0, torch.ones(2)])
def test_a_metric_that_returns_no_mapping_is_named(found):
    class Nothing(BaseMetric):
        def process(self, data_batch, data_samples):
            self.results.append(1)

        def compute_metrics(self, results):
            return found
    with pytest.raises(PluginError, match='Nothing.compute_metrics returned .* mapping'):
        evaluated(Nothing(prefix='n'))
