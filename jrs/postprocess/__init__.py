from jrs.postprocess import instances, lift  # noqa: F401
