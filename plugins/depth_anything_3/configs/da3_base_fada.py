# Beside Table 1: SegVGGT on Depth Anything 3 Base; queries at all 4 layers over all views, its own cameras and depth.
_base_ = './da3_large_fada.py'

weights = 'weights/DA3-BASE/model.safetensors'   # depth-anything/DA3-BASE, Apache-2.0; queries start fresh
model = dict(
    backbone=dict(embed_dim=768, depth=12, num_heads=12, feature_layers=(5, 7, 9, 11)),
    geometry_head=dict(features=128, out_channels=(96, 192, 384, 768)))
experiment = dict(weights_licence='follows DA3-BASE (Apache-2.0), its teacher VGGT-1B, and ScanNet: non-commercial')
