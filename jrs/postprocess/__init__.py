from jrs.postprocess import instances, lift, unposed  # noqa: F401
