# The built-in rooms (preset `tiny`): the experiment keeps its differences, only its size changes. CPU, minutes.
# No pre-trained weights exist at this size: the whole network trains, and the ground truth is the teacher.
_sizes = dict(embed_dim=64, depth=8, num_heads=2)    # heads of 32: narrower ones are slow to learn correspondence
_dense = dict(features=16, out_channels=(16, 16, 24, 24), views_per_chunk=24, activation_checkpointing=False)

weights = None
model = dict(
    autocast=None,                                  # bfloat16 pays on a CPU from width 128 on (rooms.md section B)
    backbone=dict(
        img_size=112, patch_embed='vit', feature_layers=(1, 3, 5, 7), init_values=1.0, activation_checkpointing=False,
        lora=None, freeze=dict(patch_embed=False), **_sizes),
    camera_head=dict(num_heads=4, trunk_depth=2, init_values=0.2),
    depth_head=_dense,
    queries=dict(                                   # a part takes what it has: `width`, `hidden` are MaskDecoder's
        num_queries=40, num_heads=4, embedding_dim=32, token_std=0.5, init_values=0.2, width=64, hidden=512),
    feature_head=dict(embedding_dim=32, **_dense),
    class_head=dict(embedding_dim=32),
    teacher=dict(_delete_=True, type='GroundTruthTeacher'),
    postprocessor=dict(min_pixels=40))
batches = dict(views=(3, 8), max_images=24, aspect_ratio=(0.75, 0.75))
train_dataset = dict(folder='rooms/tiny', width=112, view_spacing=(1, 6))
val_dataset = dict(folder='rooms/tiny', width=112, every=1, max_views=12, limit_scenes=8)
test_dataset = dict(folder='rooms/tiny', width=112, every=1, max_views=12)
optimizer = dict(fused=True)                        # 1100 small tensors: 10 ms a step instead of 60
parameter_groups = dict(new=dict(lr=1e-3), pretrained=dict(lr=1e-3))
train = dict(iterations=5000, workers=0, validate_every=0, save_every=250, log_every=50)
hooks = dict(pictures=dict(interval=100))
experiment = dict(trained_on='built-in rooms (preset tiny)', weights_licence='Apache-2.0')
