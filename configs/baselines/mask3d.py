# Table 1, Mask3D on ScanNet200: queries read voxels at four strides, three times (baselines.md section 3.6).
_base_ = ['../_base_/runtime.py', '../_base_/points_scannet200.py']

plugins = ['point_clouds']
_ignored = dict(ignored_label=253)                  # of instances of no class of the benchmark: a mask and no class
model = dict(
    type='PointSegmenter',
    num_classes=200,                                # outputs of the release; the benchmark has 198 of them
    network=dict(type='Res16UNet34C', dim_in=3, dim_out=None),
    decoder=dict(
        type='LevelDecoder', num_queries=150, train_queries=100, rounds=3, width=128, num_heads=8, hidden=1024,
        train_voxels=(200, 800, 3200, 12800)),
    weights=dict(classification=2.0, mask_bce=5.0, mask_dice=2.0),                      # of loss and cost
    matcher=dict(
        type='HungarianMatcher',
        costs=dict(
            classification=dict(type='ClassCost', **_ignored),
            mask_bce=dict(type='MaskBCECost'),
            mask_dice=dict(type='MaskDiceCost'))),
    losses=dict(                                    # how scenes add up: baselines.md section 2.2
        classification=dict(type='ClassLoss', scene_reduction='pooled', **_ignored),
        mask_bce=dict(type='MaskBCELoss', scene_reduction='sum'),
        mask_dice=dict(type='MaskDiceLoss', scene_reduction='sum')),
    targets=dict(membership='any_voxel'),
    postprocessor=dict(type='SplitMasks', distance_m=0.95, top_pairs=750, num_labels=198))
_input = dict(features=('color',), color_scale='normalised', voxel_origin='world', voxel_values='first')
batches = dict(scenes=5)
train_dataset = dict(
    augmentation=dict(                              # OneFormer3D's: ours, the sources do not list Mask3D's
        flip_axes=(0, 1), rotation=True, scale=(0.8, 1.2), shift_m=0.1, elastic=((6, 40), (20, 160)), elastic_share=0.5),
    **_ignored, **_input)
val_dataset = _input
test_dataset = _input
train = dict(
    iterations=144361,                              # 601 epochs of 1201 scenes, five at a time
    warmup=0.0, final_lr_factor=1e-3,               # cosine: ours; the release: one cycle
    clip_norm=None, accumulate=None, workers=8, validate_every=9600, save_every=500, log_every=50)
hooks = dict(pictures=None)                         # there are no pictures
_unet = dict(stem=16, planes=(16, 32, 48, 64, 64, 48, 32, 32), blocks=(1, 1, 1, 1, 1, 1, 1, 1))
_decoder = dict(num_queries=100, rounds=1, width=64, num_heads=4, hidden=128)
profiles = dict(
    rooms=dict(model=dict(network=_unet, decoder=_decoder)),
    rooms_small=dict(model=dict(decoder=dict(num_queries=100, rounds=2))),
    debug=dict(model=dict(
        network=dict(stem=4, planes=(4, 8, 8, 8, 8, 8, 8, 8), blocks=(1, 1, 1, 1, 1, 1, 1, 1)),
        decoder=dict(num_queries=12, train_queries=12, rounds=1, width=16, num_heads=2, hidden=32))))
