# Beside Table 1: SegVGGT on MapAnything V1.1, whose geometry is in metres; queries at the 8 layers that see the scene.
_base_ = '../../../configs/segvggt/all24_fada.py'

plugins = ['map_anything']
weights = 'weights/MapAnything/model.safetensors'   # facebook/map-anything-apache; queries and their heads start fresh
model = dict(
    backbone=dict(                                  # backbones.md section 3; LoRA on the 16 layers, the encoder frozen
        type='MapAnything', embed_dim=1536, depth=16, num_heads=24, patch_embed='dinov2_vitg14', init_values=1e-5,
        feature_layers=(-1, 7, 11, 15)),
    camera_head=None, depth_head=None,
    geometry_head=dict(type='MapAnythingGeometry', activation_checkpointing=True),
    queries=dict(num_heads=24),                     # of 64, as in the layers
    losses=dict(scale=dict(type='MetricScaleLoss')), weights=dict(scale=1.0),
    teacher=dict(truth='scale'))                    # its shapes are the teacher's, its metres those of the data
parameter_groups = dict(pretrained=dict(parameters=['backbone.*', 'geometry_head.*']))
_small = dict(features=16, out_channels=(16, 16, 24, 24), pose_dim=64, scale_dim=32, activation_checkpointing=False)
profiles = dict(
    debug=dict(model=dict(
        backbone=dict(feature_layers=(-1, 1, 2, 3)), geometry_head=dict(_small, features=8, out_channels=(8, 8, 8, 8)))),
    rooms=dict(weights=None, model=dict(            # the committed VGGT weights, which stay the teacher, do not fit
        backbone=dict(depth=16, feature_layers=(-1, 7, 11, 15)), geometry_head=_small)),
    rooms_small=dict(model=dict(backbone=dict(feature_layers=(-1, 11, 17, 23)), geometry_head=_small)))
experiment = dict(weights_licence='follows MapAnything (Apache-2.0 or CC BY-NC 4.0, by file), its teacher VGGT-1B, and '
                  'ScanNet: non-commercial')
