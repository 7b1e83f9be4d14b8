# Beside Table 1: SegVGGT on Depth Anything 3 Giant; queries at all 14 layers over all views, its own cameras and depth.
_base_ = './da3_large_fada.py'

weights = 'weights/DA3-GIANT-1.1/model.safetensors'   # depth-anything/DA3-GIANT-1.1, CC BY-NC 4.0; queries start fresh
model = dict(backbone=dict(embed_dim=1536, depth=40, num_heads=24, mlp='swiglu', feature_layers=(19, 27, 33, 39)))
experiment = dict(weights_licence='follows DA3-GIANT-1.1 (CC BY-NC 4.0), its teacher VGGT-1B, and ScanNet: non-commercial')
