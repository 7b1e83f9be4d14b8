from mmengine.evaluator import BaseMetric

from jrs.registry import METRICS


@METRICS.register_module()
class InstanceCount(BaseMetric):
    """Mean absolute error of the number of instances that score at least `min_score`."""
    default_prefix = 'count'

    def __init__(self, min_score=0.2, **options):
        super().__init__(**options)
        self.min_score = min_score

    def process(self, data_batch, data_samples):
        for ids, scene in zip(data_batch.instance_ids, data_samples, strict=True):                  # (V, H, W)
            self.results.append(abs(int((scene.instances.scores >= self.min_score).sum()) - len(ids[ids > 0].unique())))

    def compute_metrics(self, results):
        return dict(mae=sum(results) / len(results))
