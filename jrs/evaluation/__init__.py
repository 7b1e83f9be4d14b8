from jrs.evaluation import attention, metrics  # noqa: F401
