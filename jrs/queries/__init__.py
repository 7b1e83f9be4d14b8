from jrs.queries import inserted, insertion  # noqa: F401
