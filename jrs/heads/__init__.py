from jrs.heads import camera, correspondence, depth, instance_features, points, query_class  # noqa: F401
