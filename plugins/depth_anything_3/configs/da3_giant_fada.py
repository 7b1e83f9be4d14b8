# Beside Table 1: SegVGGT on Depth Anything 3 Giant; queries at all 14 layers over all views, its own cameras and depth.
_base_ = '../../../configs/segvggt/all24_fada.py'

plugins = ['depth_anything_3']
weights = 'weights/DA3-GIANT-1.1/model.safetensors'   # depth-anything/DA3-GIANT-1.1, CC BY-NC 4.0; queries start fresh
model = dict(
    backbone=dict(                                  # backbones.md section 6.1
        type='DepthAnything3', embed_dim=1536, depth=40, num_heads=24, mlp='swiglu',
        feature_layers=(19, 27, 33, 39), init_values=1.0),
    camera_head=None, depth_head=None,
    geometry_head=dict(
        type='DepthAnything3Geometry', features=256, out_channels=(256, 512, 1024, 1024), activation_checkpointing=True))
parameter_groups = dict(pretrained=dict(parameters=['backbone.*', 'geometry_head.*']))
train_dataset = dict(width=504)
val_dataset = dict(width=504)
test_dataset = dict(width=504)
profiles = dict(
    debug=dict(model=dict(geometry_head=dict(features=8, out_channels=(8, 8, 8, 8)))),
    rooms=dict(weights=None, model=dict(geometry_head=dict(features=16, out_channels=(16, 16, 24, 24)))),
    rooms_small=dict(model=dict(geometry_head=dict(features=32, out_channels=(32, 32, 48, 48)))))
experiment = dict(weights_licence='follows DA3-GIANT-1.1 (CC BY-NC 4.0), its teacher VGGT-1B, and ScanNet: non-commercial')
