from jrs.heads import camera, depth, instance_features, points, query_class, scale  # noqa: F401
