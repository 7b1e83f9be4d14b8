# Beside Table 9: Depth Anything 3 Base by itself, fine-tuned on geometry: its own cameras and depth, no queries.
_base_ = '../../../configs/segvggt/all24_fada.py'

plugins = ['depth_anything_3']
weights = 'weights/DA3-BASE/model.safetensors'   # depth-anything/DA3-BASE, Apache-2.0
model = dict(
    backbone=dict(                                  # backbones.md section 6.1
        type='DepthAnything3', embed_dim=768, depth=12, num_heads=12, feature_layers=(5, 7, 9, 11), init_values=1.0),
    camera_head=None, depth_head=None,
    geometry_head=dict(
        type='DepthAnything3Geometry', features=128, out_channels=(96, 192, 384, 768), activation_checkpointing=True),
    queries=None, feature_head=None, class_head=None, matcher=None, alignment=None, postprocessor=None,
    losses=dict(classification=None, mask_bce=None, mask_dice=None, fada=None))
parameter_groups = dict(new=dict(optional=True), pretrained=dict(parameters=['backbone.*', 'geometry_head.*']))
metrics = dict(instances=None)
train_dataset = dict(width=504)
val_dataset = dict(width=504)
test_dataset = dict(width=504)
profiles = dict(
    debug=dict(model=dict(geometry_head=dict(features=8, out_channels=(8, 8, 8, 8)))),
    rooms=dict(weights=None, model=dict(geometry_head=dict(features=16, out_channels=(16, 16, 24, 24)))),
    rooms_small=dict(model=dict(geometry_head=dict(features=32, out_channels=(32, 32, 48, 48)))))
experiment = dict(weights_licence='follows DA3-BASE (Apache-2.0), its teacher VGGT-1B, and ScanNet: non-commercial')
