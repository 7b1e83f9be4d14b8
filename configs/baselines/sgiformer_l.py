# Table 1, SGIFormer-L on ScanNet200: queries of likely voxels, superpoints read queries in turn (baselines.md section 3.7).
_base_ = ['../_base_/runtime.py', '../_base_/points_scannet200.py']

plugins = ['point_clouds']
model = dict(
    type='PointSegmenter',
    num_classes=198,
    network=dict(type='Res16UNet34C', dim_in=3, dim_out=None),
    pooling=dict(type='MeanPooling'),
    decoder=dict(
        type='GuidedDecoder', num_guided=200, num_learned=200, voxel_share=0.4, layers=3, width=256, num_heads=8,
        hidden=1024),
    weights=dict(classification=0.8, mask_bce=1.0, mask_dice=1.0, voxel_class=0.4, voxel_offset=0.4),
    matcher=dict(
        type='HungarianMatcher',
        costs=dict(
            classification=dict(type='ClassCost', weight=0.5),
            mask_bce=dict(type='MaskBCECost'),
            mask_dice=dict(type='MaskDiceCost'))),
    losses=dict(                                    # how scenes add up: baselines.md section 2.2
        classification=dict(type='ClassLoss', scene_reduction='mean_all'),
        mask_bce=dict(type='MaskBCELoss'),
        mask_dice=dict(type='MaskDiceLoss', last_scale=3.0),        # times its scenes per GPU
        voxel_class=dict(type='VoxelClassLoss'),
        voxel_offset=dict(type='VoxelOffsetLoss')),
    targets=dict(voxels=True),
    postprocessor=dict(
        type='QueryMasks', top_pairs=600, mask_threshold=0.55, min_score=0.0, min_pixels=100,
        suppression=dict(type='MatrixNMS', kernel='linear')))
_input = dict(features=('color',), color_scale='normalised', voxel_origin='world')
batches = dict(scenes=3, slots=4)                   # four GPUs
train_dataset = dict(
    augmentation=dict(                              # OneFormer3D's: ours, the sources do not list SGIFormer's
        flip_axes=(0, 1), rotation=True, scale=(0.8, 1.2), shift_m=0.1, elastic=((6, 40), (20, 160)), elastic_share=0.5),
    **_input)
val_dataset = _input
test_dataset = _input
parameter_groups = dict(
    new=dict(                                       # "heads": our reading
        lr=3e-3, parameters=['decoder.heads.*', 'decoder.voxel_classes.*', 'decoder.voxel_offsets.*']),
    pretrained=dict(lr=3e-4, parameters=['*']))
train = dict(
    iterations=51042,                               # 510 epochs of 1201 scenes, twelve at a time
    warmup=0.0, final_lr_factor=1e-3,               # cosine: ours
    clip_norm=None, accumulate=None, workers=8, validate_every=9600, save_every=500, log_every=50)
hooks = dict(pictures=None)                         # there are no pictures
_unet = dict(stem=16, planes=(16, 32, 48, 64, 64, 48, 32, 32), blocks=(1, 1, 1, 1, 1, 1, 1, 1))
_decoder = dict(num_guided=50, num_learned=50, layers=2, width=64, num_heads=4, hidden=128)
profiles = dict(
    rooms=dict(model=dict(network=_unet, decoder=_decoder), batches=dict(slots=1)),
    rooms_small=dict(model=dict(decoder=dict(layers=2)), batches=dict(slots=1)),
    debug=dict(model=dict(
        network=dict(stem=4, planes=(4, 8, 8, 8, 8, 8, 8, 8), blocks=(1, 1, 1, 1, 1, 1, 1, 1)),
        decoder=dict(num_guided=6, num_learned=6, layers=2, width=16, num_heads=2, hidden=32))))
