from jrs.evaluation import metrics  # noqa: F401
