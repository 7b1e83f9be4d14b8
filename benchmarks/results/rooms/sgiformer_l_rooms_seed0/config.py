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
        hidden=128,
        layers=2,
        num_guided=50,
        num_heads=4,
        num_learned=50,
        type='GuidedDecoder',
        voxel_share=0.4,
        width=64),
    losses=dict(
        classification=dict(scene_reduction='mean_all', type='ClassLoss'),
        mask_bce=dict(type='MaskBCELoss'),
        mask_dice=dict(last_scale=3.0, type='MaskDiceLoss'),
        voxel_class=dict(type='VoxelClassLoss'),
        voxel_offset=dict(type='VoxelOffsetLoss')),
    matcher=dict(
        costs=dict(
            classification=dict(type='ClassCost', weight=0.5),
            mask_bce=dict(type='MaskBCECost'),
            mask_dice=dict(type='MaskDiceCost')),
        type='HungarianMatcher'),
    network=dict(
        blocks=(
            1,
            1,
            1,
            1,
            1,
            1,
            1,
            1,
        ),
        dim_in=3,
        dim_out=None,
        planes=(
            16,
            32,
            48,
            64,
            64,
            48,
            32,
            32,
        ),
        stem=16,
        type='Res16UNet34C'),
    num_classes=198,
    pooling=dict(type='MeanPooling'),
    postprocessor=dict(
        mask_threshold=0.55,
        min_pixels=40,
        min_score=0.0,
        suppression=dict(kernel='linear', type='MatrixNMS'),
        top_pairs=600,
        type='QueryMasks'),
    targets=dict(voxels=True),
    type='PointSegmenter',
    weights=dict(
        classification=0.8,
        mask_bce=1.0,
        mask_dice=1.0,
        voxel_class=0.4,
        voxel_offset=0.4))
optimizer = dict(fused=True, type='AdamW', weight_decay=0.05)
parameter_groups = dict(
    new=dict(
        lr=0.001,
        parameters=[
            'decoder.heads.*',
            'decoder.voxel_classes.*',
            'decoder.voxel_offsets.*',
        ]),
    pretrained=dict(lr=0.002, parameters=[
        '*',
    ]))
plugins = [
    'point_clouds',
]
seed = 0
test_dataset = dict(
    benchmark='scannet200',
    color_scale='normalised',
    features=('color', ),
    folder='rooms/tiny',
    mode='test',
    split='val',
    type='PointSceneDataset',
    voxel_m=0.1,
    voxel_origin='world')
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
        elastic_share=0.5,
        flip_axes=(
            0,
            1,
        ),
        rotation=True,
        scale=(
            0.8,
            1.2,
        ),
        shift_m=0.1),
    benchmark='scannet200',
    color_scale='normalised',
    features=('color', ),
    folder='rooms/tiny',
    max_points=250000,
    mode='train',
    split='train',
    type='PointSceneDataset',
    voxel_m=0.1,
    voxel_origin='world')
val_dataset = dict(
    benchmark='scannet200',
    color_scale='normalised',
    features=('color', ),
    folder='rooms/tiny',
    limit_scenes=8,
    mode='test',
    split='val',
    type='PointSceneDataset',
    voxel_m=0.1,
    voxel_origin='world')
weights = None
