# Table 1, OneFormer3D on ScanNet200: every superpoint is a query (baselines.md section 3.3).
_base_ = ['../_base_/runtime.py', '../_base_/points_scannet200.py']

plugins = ['point_clouds']
model = dict(
    type='PointSegmenter',
    num_classes=198,
    network=dict(type='Res16UNet34C', dim_in=3, dim_out=96),
    pooling=dict(type='MeanPooling'),
    decoder=dict(
        type='SuperpointDecoder', start=dict(type='SuperpointQueries', train_share=(0.5, 1.0)), layers=6, width=256,
        num_heads=8, hidden=1024, cross_norm=True, semantic_classes=200),
    weights=dict(classification=0.5, mask_bce=1.0, mask_dice=1.0, semantic=0.5),        # of loss and cost
    matcher=dict(
        type='SparseMatcher', k=1,                  # a query can only be of an instance that has its superpoint
        costs=dict(
            classification=dict(type='ClassCost'),
            mask_bce=dict(type='MaskBCECost'),
            mask_dice=dict(type='MaskDiceCost'))),
    losses=dict(                                    # how scenes add up: baselines.md section 2.2
        classification=dict(type='ClassLoss'),
        mask_bce=dict(type='MaskBCELoss'),
        mask_dice=dict(type='MaskDiceLoss', last_scale=4.0),
        semantic=dict(type='SuperpointSemanticLoss')),
    postprocessor=dict(
        type='QueryMasks', top_pairs=600, mask_threshold=0.4, min_score=0.0, min_pixels=100,
        suppression=dict(type='MatrixNMS', kernel='linear')),
    panoptic=dict(num_stuff=2, min_score=0.5, min_points=100))
_input = dict(features=('color',), color_scale='normalised', voxel_origin='world')
train_dataset = dict(
    augmentation=dict(
        flip_axes=(0, 1), rotation=True, scale=(0.8, 1.2), shift_m=0.1, elastic=((6, 40), (20, 160)), elastic_share=0.5),
    **_input)
val_dataset = _input
test_dataset = _input
train = dict(
    iterations=153600,                              # 512 epochs of 1201 scenes, four at a time
    warmup=0.0, final_lr_factor=1e-3,               # cosine: ours; the release: a polynomial of power 0.9
    clip_norm=10.0, accumulate=None, workers=8, validate_every=9600, save_every=500, log_every=50)
hooks = dict(pictures=None)                         # there are no pictures
_unet = dict(stem=16, planes=(16, 32, 48, 64, 64, 48, 32, 32), blocks=(1, 1, 1, 1, 1, 1, 1, 1), dim_out=32)
_decoder = dict(layers=3, width=64, num_heads=4, hidden=128)
profiles = dict(
    rooms=dict(model=dict(network=_unet, decoder=_decoder)),
    rooms_small=dict(model=dict(decoder=dict(layers=3))),
    debug=dict(model=dict(
        network=dict(stem=4, planes=(4, 8, 8, 8, 8, 8, 8, 8), blocks=(1, 1, 1, 1, 1, 1, 1, 1), dim_out=8),
        decoder=dict(layers=2, width=16, num_heads=2, hidden=32))))
