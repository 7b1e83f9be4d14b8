from jrs.evaluation import attention, metrics, panoptic_metric  # noqa: F401
