# Tables 2 and 6, row PanSt3R: MUSt3R and DINOv2, both frozen; masks by queries of a decoder; a set of them by QUBO.
# Version 1 of its design [M: baselines.md section 4.5]; the paper names no version, panst3r_v2.py has the other one.
# The released weights (panst3r_v1_512_5ds.pth): tools/test.py configs/baselines/panst3r.py FILE
# words/siglip.yaml: tools/vocabulary.py words/siglip.yaml --encoder FOLDER --names scannet200 scannetpp, FOLDER being SigLIP
# base (patch 16, 224) and the prompt "This is a photo of {}." [M].
_base_ = ['../_base_/runtime.py', '../_base_/scannet200.py']

plugins = ['must3r', 'mask_decoder', 'panst3r']
weights = 'weights/PanSt3R/panst3r_v1_512_5ds.pth'  # has MUSt3R and DINOv2 too; fine-tuned from there: ours
_keys = 50                                          # ours: of more views so many make the memory, and are decoded
model = dict(
    type='SegVGGT',
    num_classes=198,
    autocast=None,                                  # [M] no mixed precision
    key_views=_keys,
    frozen=('geometry_head',),
    backbone=dict(                                  # [M]; -1: the encoder's tokens
        type='MUSt3R', img_size=512, patch_size=16, embed_dim=768, depth=12, num_heads=12, encoder_dim=1024,
        encoder_depth=24, encoder_heads=16, feedback='single_mlp', key_views=_keys, feature_layers=(-1, 11),
        freeze=dict(patch_embed=True, blocks=True)),
    geometry_head=dict(type='MUSt3RGeometry'),
    feature_head=dict(
        type='PanSt3RFeatures', memory_dim=768, widths=(512, 384, 256),                           # [M]
        dino=dict(embed_dim=1024, depth=24, num_heads=16, img_size=518), activation_checkpointing=True),
    queries=dict(                                   # [M]
        type='MaskDecoder', num_queries=200, num_heads=8, layers=6, width=768, hidden=2048, embedding_dim=256,
        memory='mask_memory', memory_dim=768, mask_resize='bilinear', positions='ends', mask_layers=3),
    class_head=dict(
        type='TextClassHead', text_dim=768, embedding_dim=768, classes='sigmoid', vocabulary='words/siglip.yaml'),
    weights=dict(classification=1.0, mask_bce=20.0, mask_dice=1.0),                               # [M] of loss and cost
    matcher=dict(
        type='HungarianMatcher',
        costs=dict(
            classification=dict(type='FocalCost', alpha=0.25, gamma=2.0),                         # [M]; the form is ours
            mask_bce=dict(type='MaskBCECost'),      # ours: all pixels, where [M] draws 12288
            mask_dice=dict(type='MaskDiceCost'))),
    losses=dict(
        classification=dict(type='FocalLoss', alpha=0.25, gamma=2.0),                             # [M]
        mask_bce=dict(type='MaskBCELoss'), mask_dice=dict(type='MaskDiceLoss')),                  # ours: over all views
    postprocessor=dict(type='QuboMasks', penalty=1.0, min_score=0.01, steps=10000, restarts=20))  # [M]

batches = dict(views=(2, 5), max_images=10, slots=2, aspect_ratio=(0.31, 0.75))                   # [M] views, 2 x 2 scenes
train_dataset = dict(width=512)
val_dataset = dict(width=512)
test_dataset = dict(width=512)                      # [P] 512 x 384
metrics = dict(panoptic=dict(type='PanopticMetric', benchmark='scannet200'))
optimizer = dict(type='AdamW', weight_decay=0.05)   # [M]
parameter_groups = dict(
    new=dict(lr=1e-4, parameters=['feature_head.*', 'queries.*', 'class_head.*']),                # [M]
    pretrained=dict(lr=1e-4, parameters=['*'], optional=True))      # nothing here; where a backbone learns too
train = dict(
    iterations=40000, warmup=0.025, final_lr_factor=1e-3, clip_norm=1.0, accumulate=None,         # [M] 5 of 200 epochs
    workers=8, validate_every=4000, save_every=500, log_every=50)
# On the rooms it is "PanSt3R-style": the geometry is VGGT's there, as in all other rows, and words are learned.
_words = dict(_delete_=True, type='LearnedClassHead', embedding_dim=64, dim=32)
_vggt = dict(
    _delete_=True, type='VGGT', img_size=112, patch_size=14, patch_embed='vit', encoder_depth=4, embed_dim=64, depth=8,
    num_heads=2, feature_layers=(1, 3, 5, 7), init_values=1.0)
_geometry = dict(                                   # frozen with the backbone; its weights are those of the rooms
    camera_head=dict(type='CameraHead', num_heads=4, trunk_depth=2, init_values=0.2), geometry_head=None,
    depth_head=dict(type='DepthHead', features=16, out_channels=(16, 16, 24, 24), views_per_chunk=24))
profiles = dict(
    rooms=dict(
        model=dict(
            key_views=None, frozen=('camera_head', 'depth_head'), class_head=_words,
            backbone=dict(_vggt, freeze=dict(patch_embed=True, blocks=True)), **_geometry,
            feature_head=dict(memory_dim=64, widths=(64, 48, 32), dino=None, views_per_chunk=24,
                              activation_checkpointing=False),
            queries=dict(layers=3, memory_dim=64, hidden=256)),
        batches=dict(views=(2, 8)), train_dataset=dict(width=112), parameter_groups=dict(new=dict(lr=2e-3))),
    rooms_small=dict(                               # no weights exist at this size: the geometry learns beside
        model=dict(
            key_views=None, frozen=(), class_head=dict(_words, embedding_dim=128),
            backbone=dict(_vggt, embed_dim=128, depth=24, num_heads=4, feature_layers=(5, 11, 17, 23), init_values=0.2,
                          freeze=dict(patch_embed=False, blocks=False)),
            **dict(_geometry, depth_head=dict(
                type='DepthHead', features=32, out_channels=(32, 32, 48, 48), views_per_chunk=96)),
            feature_head=dict(memory_dim=128, widths=(128, 96, 48), dino=None, views_per_chunk=96,
                              activation_checkpointing=False),
            queries=dict(layers=3, memory_dim=128, hidden=512),
            weights=dict(camera=5.0, depth=1.0),
            losses=dict(camera=dict(type='CameraLoss'), depth=dict(type='DepthLoss')),
            teacher=dict(type='GroundTruthTeacher'))),
    debug=dict(model=dict(
        key_views=3, class_head=dict(_words, embedding_dim=32, dim=16),
        backbone=dict(key_views=3, patch_size=14, depth=2, encoder_dim=24, encoder_depth=1, encoder_heads=2,
                      feature_layers=(-1, 1), freeze=dict(patch_embed=True, blocks=True)),
        feature_head=dict(memory_dim=32, widths=(24, 16, 16), dino=dict(embed_dim=16, depth=1, num_heads=2, img_size=28),
                          activation_checkpointing=False),
        queries=dict(layers=2, memory_dim=32, hidden=32))))
experiment = dict(
    trained_on='ScanNet200 training scenes', weights_licence='follows PanSt3R (Naver, non-commercial) and ScanNet')
