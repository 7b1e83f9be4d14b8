# Beside Table 1: SegVGGT on MUSt3R, queries at all 12 blocks of the pass that renders views against its memory.
_base_ = '../../../configs/segvggt/all24_fada.py'

plugins = ['must3r']
weights = 'weights/MUSt3R/MUSt3R_512.pth'           # naver/must3r, non-commercial; queries and their heads start fresh
model = dict(
    backbone=dict(                                  # backbones.md section 5; LoRA on the decoder, the encoder frozen
        _delete_=True, type='MUSt3R', img_size=512, patch_size=16, embed_dim=768, depth=12, num_heads=12, encoder_dim=1024,
        encoder_depth=24, encoder_heads=16, feedback='single_mlp', feature_layers=(2, 5, 8, 11),
        activation_checkpointing=True, lora=dict(rank=32, alpha=32, dropout=0.0),
        freeze=dict(patch_embed=True, blocks=False)),
    camera_head=None, depth_head=None, geometry_head=dict(type='MUSt3RGeometry'),
    queries=dict(num_heads=12),                     # of 64, as in the blocks
    weights=dict(points=1.0, points_local=1.0),
    losses=dict(                                    # cameras follow from the points, without a gradient
        camera=None, depth=None, points=dict(type='PointLoss'), points_local=dict(type='LocalPointLoss')))
parameter_groups = dict(pretrained=dict(parameters=['backbone.*', 'geometry_head.*']))
train_dataset, val_dataset, test_dataset = dict(width=512), dict(width=512), dict(width=512)    # backbones.md section 5
_small = dict(patch_size=14, lora=None)              # of the rooms' pictures and their teacher; nothing to adapt
profiles = dict(                                    # the committed VGGT weights, which stay the teacher, do not fit
    rooms=dict(weights=None, model=dict(
        backbone=dict(encoder_dim=64, encoder_depth=4, encoder_heads=2, **_small), queries=dict(num_heads=2))),
    rooms_small=dict(model=dict(backbone=dict(
        depth=12, encoder_dim=128, encoder_depth=8, encoder_heads=4, feature_layers=(2, 5, 8, 11), **_small))),
    debug=dict(model=dict(backbone=dict(encoder_dim=32, encoder_depth=2, encoder_heads=2, **_small))))
experiment = dict(weights_licence='follows MUSt3R (Naver, non-commercial), its teacher VGGT-1B, and ScanNet: non-commercial')
