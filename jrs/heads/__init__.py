from jrs.heads import camera, depth, instance_features, points, query_class, scale, text_class  # noqa: F401
