# Beside Table 1: SegVGGT on Depth Anything 3 Small; queries at all 4 layers over all views, its own cameras and depth.
_base_ = './da3_large_fada.py'

weights = 'weights/DA3-SMALL/model.safetensors'   # depth-anything/DA3-SMALL, Apache-2.0; queries start fresh
model = dict(
    backbone=dict(embed_dim=384, depth=12, num_heads=6, feature_layers=(5, 7, 9, 11)),
    geometry_head=dict(features=64, out_channels=(48, 96, 192, 384)))
experiment = dict(weights_licence='follows DA3-SMALL (Apache-2.0), its teacher VGGT-1B, and ScanNet: non-commercial')
