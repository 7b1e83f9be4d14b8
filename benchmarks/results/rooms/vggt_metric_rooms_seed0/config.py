batches = dict(
    aspect_ratio=(
        0.75,
        0.75,
    ),
    max_images=24,
    slots=1,
    type='ViewBatchSampler',
    views=(
        3,
        8,
    ))
data_root = '/work/data'
experiment = dict(
    trained_on='built-in rooms (preset tiny)', weights_licence='Apache-2.0')
hooks = dict(pictures=dict(interval=200, type='SceneImages'))
metrics = dict(
    cameras=dict(type='CameraMetric'),
    depth=dict(scale='metric', type='DepthMetric'),
    instances=None)
model = dict(
    alignment=None,
    autocast=None,
    backbone=dict(
        activation_checkpointing=False,
        depth=8,
        embed_dim=64,
        feature_layers=(
            1,
            3,
            5,
            7,
        ),
        freeze=dict(blocks=False, patch_embed=False),
        img_size=112,
        init_values=1.0,
        lora=dict(alpha=8, dropout=0.0, rank=8),
        num_heads=2,
        patch_embed='vit',
        patch_size=14,
        type='VGGT'),
    camera_head=dict(
        init_values=0.2, num_heads=4, trunk_depth=2, type='CameraHead'),
    class_head=None,
    depth_head=dict(
        activation_checkpointing=False,
        features=16,
        out_channels=(
            16,
            16,
            24,
            24,
        ),
        type='DepthHead',
        views_per_chunk=24),
    feature_head=None,
    losses=dict(
        camera=dict(type='CameraLoss'),
        classification=None,
        depth=dict(type='DepthLoss'),
        fada=None,
        mask_bce=None,
        mask_dice=None,
        scale=dict(type='MetricScaleLoss')),
    matcher=None,
    num_classes=198,
    postprocessor=None,
    queries=None,
    scale_head=dict(type='ScaleHead'),
    teacher=dict(
        autocast=None,
        checkpoint='weights/rooms_tiny_geometry/weights.safetensors',
        model=dict(
            backbone=dict(
                activation_checkpointing=False,
                depth=8,
                embed_dim=64,
                feature_layers=(
                    1,
                    3,
                    5,
                    7,
                ),
                img_size=112,
                init_values=1.0,
                num_heads=2,
                patch_embed='vit',
                patch_size=14,
                type='VGGT'),
            camera_head=dict(
                init_values=0.2, num_heads=4, trunk_depth=2,
                type='CameraHead'),
            depth_head=dict(
                activation_checkpointing=False,
                features=16,
                out_channels=(
                    16,
                    16,
                    24,
                    24,
                ),
                type='DepthHead',
                views_per_chunk=24),
            type='SegVGGT'),
        truth='scale',
        type='PretrainedTeacher'),
    type='SegVGGT',
    weights=dict(
        camera=5.0,
        classification=0.5,
        depth=1.0,
        fada=0.5,
        mask_bce=1.0,
        mask_dice=1.0,
        scale=1.0))
optimizer = dict(fused=True, type='AdamW', weight_decay=0.05)
parameter_groups = dict(
    new=dict(
        lr=0.002, optional=True, parameters=[
            'scale_head.*',
            '*.lora_[ab]',
        ]),
    pretrained=dict(
        lr=0.001, parameters=[
            'backbone.*',
            'camera_head.*',
            'depth_head.*',
        ]))
plugins = []
seed = 0
test_dataset = dict(
    benchmark='scannet200',
    every=1,
    folder='rooms/tiny',
    max_views=12,
    mode='test',
    split='val',
    type='SceneDataset',
    width=112)
train = dict(
    accumulate=None,
    clip_norm=1.0,
    final_lr_factor=0.001,
    iterations=400,
    log_every=50,
    save_every=200,
    sharding=None,
    skip_nonfinite=0,
    timeout=900,
    validate_every=0,
    warmup=0.05,
    workers=0)
train_dataset = dict(
    benchmark='scannet200',
    folder='rooms/tiny',
    mode='train',
    split='train',
    transform=None,
    type='SceneDataset',
    view_spacing=(
        1,
        6,
    ),
    width=112)
val_dataset = dict(
    benchmark='scannet200',
    every=1,
    folder='rooms/tiny',
    limit_scenes=8,
    max_views=12,
    mode='test',
    split='val',
    type='SceneDataset',
    width=112)
weights = 'weights/rooms_tiny_geometry/weights.safetensors'
