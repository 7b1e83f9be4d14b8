batches = dict(scenes=2, slots=1, type='PointBatchSampler')
data_root = '/work/data'
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
hooks = dict(pictures=None)
metrics = dict(
    instances=dict(
        benchmark='scannet200',
        transfer=dict(type='SuperpointTransfer'),
        type='InstanceAPMetric'))
model = dict(
    decoder=dict(
        cross_norm=False,
        hidden=128,
        layers=3,
        num_heads=4,
        score_head=True,
        start=dict(num_queries=100, type='LearnedQueries'),
        type='SuperpointDecoder',
        width=64),
    losses=dict(
        classification=dict(scene_reduction='pooled', type='ClassLoss'),
        mask_bce=dict(scene_reduction='mean_all', type='MaskBCELoss'),
        mask_dice=dict(
            last_scale=4.0, scene_reduction='mean_all', type='MaskDiceLoss'),
        score=dict(scene_reduction='mean_all', type='ScoreLoss')),
    matcher=dict(
        costs=dict(
            classification=dict(type='ClassCost'),
            mask_bce=dict(type='MaskBCECost'),
            mask_dice=dict(type='MaskDiceCost')),
        type='HungarianMatcher'),
    network=dict(
        blocks=2,
        dim_in=6,
        least_extent=128,
        levels=4,
        trim_odd_extents=True,
        type='SparseUNet',
        width=16),
    num_classes=198,
    pooling=dict(type='MeanPooling'),
    postprocessor=dict(
        mask_threshold=0.5,
        min_pixels=40,
        min_score=0.0,
        top_pairs=100,
        type='QueryMasks'),
    type='PointSegmenter',
    weights=dict(classification=0.5, mask_bce=1.0, mask_dice=1.0, score=0.5))
optimizer = dict(fused=True, type='AdamW', weight_decay=0.05)
parameter_groups = dict(
    new=dict(lr=0.001, parameters=[
        'decoder.*',
        'pooling.*',
    ]),
    pretrained=dict(lr=0.002, parameters=[
        'network.*',
    ]))
plugins = [
    'point_clouds',
]
seed = 0
test_dataset = dict(
    benchmark='scannet200',
    folder='rooms/tiny',
    mode='test',
    split='val',
    type='PointSceneDataset',
    voxel_m=0.1)
trackers = dict(tensorboard=dict(type='TensorboardVisBackend'))
train = dict(
    accumulate=None,
    clip_by='all',
    clip_norm=None,
    decay_vectors=True,
    final_lr_factor=0.001,
    iterations=800,
    log_every=50,
    save_every=200,
    sharding=None,
    skip_nonfinite=0,
    timeout=900,
    validate_every=0,
    warmup=0.05,
    workers=0)
train_dataset = dict(
    augmentation=dict(
        affine=0.1,
        color_noise=0.1,
        elastic=(
            (
                6,
                40,
            ),
            (
                20,
                160,
            ),
        ),
        flip_axes=(0, ),
        rotation=True),
    benchmark='scannet200',
    folder='rooms/tiny',
    max_points=250000,
    mode='train',
    split='train',
    type='PointSceneDataset',
    voxel_m=0.1)
val_dataset = dict(
    benchmark='scannet200',
    folder='rooms/tiny',
    limit_scenes=8,
    mode='test',
    split='val',
    type='PointSceneDataset',
    voxel_m=0.1)
weights = None
