# Tables 2 and 6, row IGGT: VGGT, an embedding of 8 channels for each pixel, instances as its clusters; no queries.
# Sources: baselines.md section 4.4: [R] its released code, [M] its paper; [V] VGGT's recipe. What has none is ours.
# The released weights (Hugging Face lifuguan/IGGT_official): tools/test.py configs/baselines/iggt.py FILE
_base_ = ['../_base_/runtime.py', '../_base_/scannet200.py']

plugins = ['iggt']
weights = 'weights/VGGT-1B/model.pt'                # facebook/VGGT-1B; the part head starts fresh [M]
model = dict(
    type='SegVGGT',
    autocast='bfloat16',                            # backbone; heads, losses, clusters float32 and float64 [R]
    backbone=dict(
        type='VGGT', img_size=518, patch_size=14, embed_dim=1024, depth=24, num_heads=16,
        patch_embed='dinov2_vitl14_reg', feature_layers=(4, 11, 17, 23), init_values=0.01,
        activation_checkpointing=True, lora=None, freeze=dict(patch_embed=False)),
    camera_head=dict(type='CameraHead', num_heads=16),
    depth_head=dict(
        type='DepthHead', features=256, out_channels=(256, 512, 1024, 1024), activation_checkpointing=True),
    point_head=dict(                                # its fusion is what the part head reads [R]
        type='IGGTPointHead', features=256, out_channels=(256, 512, 1024, 1024), activation_checkpointing=True),
    feature_head=dict(
        type='IGGTFeatures', features=256, channels=8, cross_heads=8, window_heads=4,             # [R]
        activation_checkpointing=True),
    weights=dict(camera=5.0, depth=1.0, points=1.0, pull_push=1.0),                               # [V]; pull_push ours
    losses=dict(
        camera=dict(type='CameraLoss'), depth=dict(type='DepthLoss'), points=dict(type='PointLoss'),        # [V]
        pull_push=dict(type='PullPushLoss', pull=2.0, push=1.0, margin=1.0, samples=1024)),       # [M]; samples ours
    teacher=dict(type='GroundTruthTeacher'),        # [M] trains on true depth and cameras
    postprocessor=dict(
        type='ClusteredPixels', ranking='cohesion',                                               # ours: it has no scores
        neighbours=20, epsilon=0.01, min_samples=100, min_cluster_size=500))                      # [R] "medium"

batches = dict(views=(1, 12), max_images=24, slots=8, aspect_ratio=(0.5, 1.0))                    # [M] views, images
train_dataset = dict(width=504, patch_size=28)      # [R] width; both sides in whole windows of the part head
val_dataset = dict(width=504, patch_size=28)
test_dataset = dict(width=504, patch_size=28)
metrics = dict(
    instances=dict(class_aware=False), panoptic=dict(type='PanopticMetric', benchmark='scannet200', class_aware=False))
optimizer = dict(type='AdamW', weight_decay=0.05)   # [M], [V]
parameter_groups = dict(
    new=dict(lr=1e-5, parameters=['feature_head.*', 'point_head.*', 'camera_head.*', 'depth_head.*']),      # [M] heads
    pretrained=dict(lr=1e-6, parameters=['backbone.*']))                                          # [M]
train = dict(
    iterations=40000, warmup=0.05, final_lr_factor=1e-3, clip_norm=1.0, accumulate=None,          # as SegVGGT's here
    workers=8, validate_every=4000, save_every=500, log_every=50)
_fresh = dict(pull_push=dict(pull=0.5))             # ours: with 2 a head from random numbers stays at one point (README)
profiles = dict(                                    # a part head is as wide as the point head that it reads
    rooms=dict(
        model=dict(
            point_head=dict(features=16, out_channels=(16, 16, 24, 24), views_per_chunk=24, activation_checkpointing=False),
            feature_head=dict(cross_heads=2, window_heads=2), teacher=dict(_delete_=True, type='GroundTruthTeacher'),
            losses=_fresh, backbone=dict(lora=None), postprocessor=dict(min_samples=20, min_cluster_size=100)),
        batches=dict(views=(2, 8)), parameter_groups=dict(new=dict(lr=2e-3), pretrained=dict(lr=1e-3))),
    rooms_small=dict(model=dict(
        point_head=dict(features=32, out_channels=(32, 32, 48, 48), views_per_chunk=96, activation_checkpointing=False),
        feature_head=dict(cross_heads=4, window_heads=4), losses=_fresh,
        postprocessor=dict(min_samples=20, min_cluster_size=100))),
    debug=dict(
        model=dict(
            point_head=dict(features=8, out_channels=(8, 8, 8, 8), activation_checkpointing=False),
            feature_head=dict(cross_heads=2, window_heads=2), postprocessor=dict(min_samples=5, min_cluster_size=40)),
        batches=dict(aspect_ratio=(1.0, 1.0))))
experiment = dict(
    trained_on='ScanNet200 training scenes', weights_licence='follows VGGT-1B and ScanNet: non-commercial')
