# Table 1, SPFormer on ScanNet200 (the paper gives no number): learned queries read superpoints (baselines.md section 3.2).
_base_ = ['../_base_/runtime.py', '../_base_/points_scannet200.py']

plugins = ['point_clouds']
model = dict(
    type='PointSegmenter',
    num_classes=198,
    network=dict(
        type='SparseUNet', dim_in=6, width=32, levels=5, blocks=2,
        trim_odd_extents=True, least_extent=128),   # as spconv counts, for the published weights
    pooling=dict(type='MeanPooling'),
    decoder=dict(
        type='SuperpointDecoder', start=dict(type='LearnedQueries', num_queries=400), layers=6, width=256, num_heads=8,
        hidden=1024, score_head=True,
        cross_norm=False),                          # the release computes this norm and throws it away
    weights=dict(classification=0.5, mask_bce=1.0, mask_dice=1.0, score=0.5),           # of loss and cost
    matcher=dict(
        type='HungarianMatcher',
        costs=dict(
            classification=dict(type='ClassCost'),
            mask_bce=dict(type='MaskBCECost'),
            mask_dice=dict(type='MaskDiceCost'))),
    losses=dict(                                    # how scenes add up: baselines.md section 2.2
        classification=dict(type='ClassLoss', scene_reduction='pooled'),
        mask_bce=dict(type='MaskBCELoss', scene_reduction='mean_all'),
        mask_dice=dict(type='MaskDiceLoss', scene_reduction='mean_all', last_scale=4.0),    # a sum over its batch of 4
        score=dict(type='ScoreLoss', scene_reduction='mean_all')),
    postprocessor=dict(
        type='QueryMasks', top_pairs=100, mask_threshold=0.5, min_score=0.0, min_pixels=100))
_augmentation = dict(
    flip_axes=(0,), rotation=True, affine=0.1, color_noise=0.1, elastic=((6, 40), (20, 160)))
train_dataset = dict(augmentation=_augmentation)
train = dict(
    iterations=153600,                              # 512 epochs of 1201 scenes, four at a time
    warmup=0.0, final_lr_factor=1e-3,               # cosine: ours; the release: a polynomial of power 0.9
    clip_norm=None, accumulate=None, workers=8, validate_every=9600, save_every=500, log_every=50)
hooks = dict(pictures=None)                         # there are no pictures
_unet = dict(width=16, levels=4)
_decoder = dict(layers=3, width=64, num_heads=4, hidden=128, start=dict(num_queries=100))
profiles = dict(
    rooms=dict(model=dict(network=_unet, decoder=_decoder)),
    rooms_small=dict(model=dict(decoder=dict(layers=3))),
    debug=dict(model=dict(
        network=dict(width=8, levels=3, least_extent=1),
        decoder=dict(layers=2, width=16, num_heads=2, hidden=32, start=dict(num_queries=12)))))
