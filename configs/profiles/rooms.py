# The built-in rooms (preset `tiny`): the experiment keeps its differences, only its size changes. CPU, minutes.
# In VGGT-1B's place stand weights of configs/geometry/pretrain_rooms.py: where fine-tuning starts, and the teacher.
_geometry = 'weights/rooms_tiny_geometry/weights.safetensors'
_dense = dict(features=16, out_channels=(16, 16, 24, 24), views_per_chunk=24, activation_checkpointing=False)
_backbone = dict(                                   # heads of 32: narrower ones are slow to learn correspondence
    img_size=112, patch_embed='vit', embed_dim=64, depth=8, num_heads=2, feature_layers=(1, 3, 5, 7), init_values=1.0,
    activation_checkpointing=False)
_camera_head = dict(num_heads=4, trunk_depth=2, init_values=0.2)

weights = _geometry
model = dict(
    autocast=None,                                  # bfloat16 pays on a CPU from width 128 on (rooms.md section B)
    backbone=dict(
        lora=dict(rank=8, alpha=8),
        freeze=dict(patch_embed=False),             # this encoder has seen 160 rooms, not the world: it learns on
        **_backbone),
    camera_head=_camera_head,
    depth_head=_dense,
    geometry_head=dict(**_camera_head, **_dense),   # of a part that gives both; it takes what it has
    queries=dict(                                   # a part takes what it has: `width`, `hidden` are MaskDecoder's
        num_queries=40, num_heads=4, embedding_dim=32, token_std=0.5, init_values=0.2, width=64, hidden=512),
    feature_head=dict(embedding_dim=32, **_dense),
    class_head=dict(embedding_dim=32),
    teacher=dict(
        checkpoint=_geometry, autocast=None,
        model=dict(backbone=_backbone, camera_head=_camera_head, depth_head=_dense)),
    reconstruction=dict(geometry=dict(              # of a method on points, where views are its input
        checkpoint=_geometry, autocast=None,
        model=dict(backbone=_backbone, camera_head=_camera_head, depth_head=_dense))),
    postprocessor=dict(min_pixels=40))
batches = dict(views=(3, 8), max_images=24, slots=1, aspect_ratio=(0.75, 0.75))
train_dataset = dict(
    folder='rooms/tiny', width=112, view_spacing=(1, 6), transform=None)    # minutes: no time to see through colours
val_dataset = dict(folder='rooms/tiny', width=112, every=1, max_views=12, limit_scenes=8)
test_dataset = dict(folder='rooms/tiny', width=112, every=1, max_views=12)
optimizer = dict(fused=True)                        # a thousand small tensors: 10 ms a step instead of 60
parameter_groups = dict(new=dict(lr=2e-3), pretrained=dict(lr=1e-3))
train = dict(
    iterations=400,                                 # for ablations, 6 minutes each; the committed weights: 5000
    workers=0, validate_every=0, save_every=200, log_every=50)
hooks = dict(pictures=dict(interval=200))
experiment = dict(trained_on='built-in rooms (preset tiny)', weights_licence='Apache-2.0')
