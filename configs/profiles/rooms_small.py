# The built-in rooms (preset `small`): the size of `rooms` for one GPU, half an hour for pre-training and an experiment.
# No pre-trained weights exist at this size: the whole network trains, and the ground truth is the teacher.
_sizes = dict(embed_dim=128, depth=24, num_heads=4)
_dense = dict(features=32, out_channels=(32, 32, 48, 48), views_per_chunk=96, activation_checkpointing=False)

weights = None
model = dict(                                       # bfloat16 as in the experiment: it pays from width 128 on
    backbone=dict(
        img_size=112, patch_embed='vit', feature_layers=(5, 11, 17, 23), init_values=0.2, activation_checkpointing=False,
        lora=None, freeze=dict(patch_embed=False), **_sizes),
    camera_head=dict(num_heads=4, trunk_depth=2, init_values=0.2),
    depth_head=_dense,
    geometry_head=dict(num_heads=4, trunk_depth=2, init_values=0.2, **_dense),     # of a part that gives both
    queries=dict(                                   # a part takes what it has: `width`, `hidden` are MaskDecoder's
        num_queries=40, num_heads=4, embedding_dim=48, token_std=0.5, init_values=0.2, activation_checkpointing=False,
        width=128, hidden=1024),
    feature_head=dict(embedding_dim=48, **_dense),
    class_head=dict(embedding_dim=48),
    teacher=dict(_delete_=True, type='GroundTruthTeacher'),
    reconstruction=dict(geometry=dict(_delete_=True, type='GroundTruthTeacher')),
    postprocessor=dict(min_pixels=40))
batches = dict(views=(3, 16), max_images=192, slots=1, aspect_ratio=(0.75, 0.75))    # an update fits one GPU
train_dataset = dict(folder='rooms/small', width=112, view_spacing=(1, 6))
val_dataset = dict(folder='rooms/small', width=112, every=1, max_views=16, limit_scenes=16)
test_dataset = dict(folder='rooms/small', width=112, every=1, max_views=16)
optimizer = dict(fused=True)                        # thousands of small tensors
parameter_groups = dict(new=dict(lr=1e-3), pretrained=dict(lr=1e-3))
train = dict(iterations=4000, workers=12, validate_every=0, save_every=500, log_every=50)
hooks = dict(pictures=dict(interval=500))
experiment = dict(trained_on='built-in rooms (preset small)', weights_licence='Apache-2.0')
