batches = dict(
    aspect_ratio=(
        0.75,
        0.75,
    ),
    max_images=24,
    slots=1,
    type='ViewBatchSampler',
    views=[
        2,
        4,
    ])
data_root = 'data'
device = dict(
    attention_kernels=[
        'cudnn',
        'flash',
        'efficient',
    ],
    compile=False,
    precision=dict(convolution='tf32', matmul='ieee'),
    recomputation='fitting')
experiment = dict(
    trained_on='built-in rooms (preset tiny)', weights_licence='Apache-2.0')
hooks = dict(averaged=dict(type='AveragedWeights'), pictures=None)
metrics = dict(
    cameras=dict(type='CameraMetric'),
    depth=dict(type='DepthMetric'),
    instances=dict(
        benchmark='scannet200',
        transfer=dict(depth_tolerance_m=0.1, type='PosedTransfer'),
        type='InstanceAPMetric'))
model = dict(
    alignment=dict(type='JensenShannon'),
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
    class_head=dict(embedding_dim=32, hidden=32, type='QueryClassHead'),
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
    feature_head=dict(
        activation_checkpointing=False,
        down_ratio=2,
        embedding_dim=32,
        features=16,
        out_channels=(
            16,
            16,
            24,
            24,
        ),
        type='InstanceFeatureHead',
        views_per_chunk=24),
    losses=dict(
        camera=dict(type='CameraLoss'),
        classification=dict(no_object_weight=0.1, type='ClassLoss'),
        depth=dict(type='DepthLoss'),
        fada=dict(type='ViewAttentionLoss'),
        mask_bce=dict(type='MaskBCELoss'),
        mask_dice=dict(smooth=1.0, type='MaskDiceLoss')),
    matcher=dict(
        costs=dict(
            classification=dict(type='ClassCost'),
            fada=dict(type='ViewAttentionCost'),
            mask_bce=dict(type='MaskBCECost'),
            mask_dice=dict(smooth=1.0, type='MaskDiceCost')),
        type='HungarianMatcher'),
    min_target_pixels=1,
    num_classes=198,
    postprocessor=dict(
        mask_threshold=0.4,
        min_pixels=40,
        min_score=0.0,
        mode='pairs',
        top_pairs=600,
        type='QueryMasks'),
    queries=dict(
        activation_checkpointing=True,
        embedding_dim=32,
        init_values=0.2,
        insertion=dict(type='AllLayers'),
        num_heads=4,
        num_queries=40,
        token_std=0.5,
        type='InsertedQueries'),
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
        rescale=True,
        type='PretrainedTeacher',
        weigh=False),
    type='SegVGGT',
    weights=dict(
        camera=5.0,
        classification=2.5,
        depth=1.0,
        fada=2.5,
        mask_bce=5.0,
        mask_dice=5.0))
optimizer = dict(
    betas=[
        0.9,
        0.95,
    ], fused=True, type='AdamW', weight_decay=0.05)
parameter_groups = dict(
    new=dict(
        lr=0.002,
        parameters=[
            'queries.*',
            'feature_head.*',
            'class_head.*',
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
    resize='lanczos',
    split='val',
    type='SceneDataset',
    view_step=None,
    width=112)
trackers = dict(tensorboard=dict(type='TensorboardVisBackend'))
train = dict(
    accumulate=None,
    clip_by='all',
    clip_norm=1.0,
    decay_vectors=True,
    final_lr_factor=0.001,
    iterations=5000,
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
    resize='area',
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
