# Tables 1, 3 (row 3), 4 (row "All 24"), 7 and 8: SegVGGT on ScanNet200, queries at all 24 layers, FADA as cost and loss.
# Sources: [P] the paper, [R] the released model (segvggt_release.md), [S9] baselines.md section 9, [V] VGGT's recipe.
_base_ = ['../_base_/runtime.py', '../_base_/scannet200.py']

weights = 'weights/VGGT-1B/model.pt'                # facebook/VGGT-1B; queries and their heads start fresh [P]
model = dict(
    type='SegVGGT',
    num_classes=198,                                # [P] Sec. 4.1
    min_target_pixels=1,                            # ours: every instance that the sampled views show is a target
    autocast='bfloat16',                            # backbone and queries; heads, losses, matching float32 [S9, V]
    backbone=dict(
        type='VGGT', img_size=518, patch_size=14, embed_dim=1024, depth=24, num_heads=16,
        patch_embed='dinov2_vitl14_reg', feature_layers=(4, 11, 17, 23), init_values=0.01,
        activation_checkpointing=True,
        lora=dict(rank=32, alpha=32, dropout=0.0),  # [P] rank, [R] targets; alpha [S9]
        freeze=dict(patch_embed=True, blocks=False)),   # [P] DINO frozen; FFNs and norms of the blocks train [S9]
    camera_head=dict(type='CameraHead', num_heads=16),
    depth_head=dict(
        type='DepthHead', features=256, out_channels=(256, 512, 1024, 1024),
        activation_checkpointing=True),              # by chunk of views, here and in all parts: numbers do not change
    queries=dict(
        type='InsertedQueries', num_queries=400, num_heads=16, embedding_dim=128,     # [R]
        insertion=dict(type='AllLayers'),           # [P] Table 4
        activation_checkpointing=True),
    feature_head=dict(
        type='InstanceFeatureHead', features=256, out_channels=(256, 512, 1024, 1024),
        embedding_dim=128, down_ratio=2,            # [P] half resolution, [R]
        activation_checkpointing=True),
    class_head=dict(type='QueryClassHead', embedding_dim=128, hidden=32),             # [R]
    alignment=dict(type='JensenShannon'),           # [P] Eq. 8
    # One weight per name, shared by the cost and the loss of that name [P, 0.A.4]; `weight` in either is its own.
    weights=dict(classification=0.5, mask_bce=1.0, mask_dice=1.0, fada=0.5, camera=5.0, depth=1.0),   # [S9]
    matcher=dict(
        type='HungarianMatcher',
        costs=dict(
            classification=dict(type='ClassCost'),
            mask_bce=dict(type='MaskBCECost'),
            mask_dice=dict(type='MaskDiceCost', smooth=1.0),
            fada=dict(type='ViewAttentionCost'))),  # [P] Sec. 3.4; per_view=True: divided by V [S9]
    losses=dict(
        classification=dict(type='ClassLoss', no_object_weight=0.1),                  # [S9]
        mask_bce=dict(type='MaskBCELoss'),
        mask_dice=dict(type='MaskDiceLoss', smooth=1.0),
        fada=dict(type='ViewAttentionLoss'),        # [P] Eq. 9, lost; reduction='mean' of pairs is ours, per_view=True [S9]
        camera=dict(type='CameraLoss'),             # [V]
        depth=dict(type='DepthLoss')),              # [V]
    teacher=dict(                                   # [P] a frozen pre-trained VGGT supervises the geometry
        type='PretrainedTeacher', checkpoint='weights/VGGT-1B/model.pt', autocast='bfloat16',
        rescale=True,                               # ours: to a mean point distance of 1, as [V] does with ground truth
        weigh=False,                                # ours: its confidence does not count
        model=dict(
            type='SegVGGT',
            backbone=dict(
                type='VGGT', img_size=518, patch_size=14, embed_dim=1024, depth=24, num_heads=16,
                patch_embed='dinov2_vitl14_reg', feature_layers=(4, 11, 17, 23)),
            camera_head=dict(type='CameraHead', num_heads=16),
            depth_head=dict(type='DepthHead', features=256, out_channels=(256, 512, 1024, 1024)))),
    postprocessor=dict(                             # [R] section 9
        type='QueryMasks', mode='pairs', top_pairs=600, mask_threshold=0.4, min_score=0.0, min_pixels=200))

optimizer = dict(type='AdamW', weight_decay=0.05)   # [V]
parameter_groups = dict(                            # a parameter joins the first group that has a pattern for it
    new=dict(lr=2e-4, parameters=['queries.*', 'feature_head.*', 'class_head.*', '*.lora_[ab]']),         # [S9]
    pretrained=dict(lr=6e-5, parameters=['backbone.*', 'camera_head.*', 'depth_head.*']))                 # [S9]
train = dict(
    iterations=40000,                               # updates; ours; the paper: about 2 days on 8 A100
    warmup=0.05, final_lr_factor=1e-3,              # [V] linear, then cosine
    clip_norm=1.0,                                  # [V]
    accumulate=None,                                # batches.slots / processes
    workers=8, validate_every=4000, save_every=500, log_every=50)
