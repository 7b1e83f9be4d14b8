# Seconds: built-in rooms of preset `debug`, two layers of everything. For tests and for trying a plugin.
_dense = dict(features=8, out_channels=(8, 8, 8, 8), activation_checkpointing=False)

weights = None
model = dict(
    autocast=None,
    backbone=dict(
        img_size=56, patch_embed='conv', embed_dim=32, depth=4, num_heads=2, feature_layers=(0, 1, 2, 3), init_values=0.2,
        activation_checkpointing=False, lora=None, freeze=dict(patch_embed=False)),
    camera_head=dict(num_heads=2, trunk_depth=1),
    depth_head=_dense,
    geometry_head=dict(num_heads=2, trunk_depth=1, **_dense),       # of a part that gives both; it takes what it has
    queries=dict(num_queries=12, num_heads=2, embedding_dim=16, token_std=0.5, width=32, hidden=64),
    feature_head=dict(embedding_dim=16, **_dense),
    class_head=dict(embedding_dim=16),
    teacher=dict(_delete_=True, type='GroundTruthTeacher'),
    reconstruction=dict(geometry=dict(_delete_=True, type='GroundTruthTeacher')),
    postprocessor=dict(min_pixels=4))
batches = dict(views=(2, 4), max_images=4, slots=2)     # on one process or two
train_dataset = dict(folder='rooms/debug', width=56, view_spacing=(1, 3))
val_dataset = dict(folder='rooms/debug', width=56, every=1, max_views=4, limit_scenes=2)
test_dataset = dict(folder='rooms/debug', width=56, every=1, max_views=4)
parameter_groups = dict(new=dict(lr=1e-3), pretrained=dict(lr=1e-3))
train = dict(iterations=20, workers=0, validate_every=0, save_every=10, log_every=5)
hooks = dict(pictures=dict(interval=10))
experiment = dict(trained_on='built-in rooms (preset debug)', weights_licence='Apache-2.0')
