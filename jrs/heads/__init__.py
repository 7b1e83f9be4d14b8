from jrs.heads import camera, depth, points  # noqa: F401
