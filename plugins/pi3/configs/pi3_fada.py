# Beside Table 1: SegVGGT on Pi3, which has no reference view; queries at all 18 layers, Pi3's own cameras and depth.
_base_ = '../../../configs/segvggt/all24_fada.py'

plugins = ['pi3']
weights = 'weights/Pi3/model.safetensors'           # yyfz233/Pi3, CC BY-NC 4.0; queries and their heads start fresh
model = dict(
    backbone=dict(type='Pi3', depth=18, feature_layers=(3, 8, 13, 17)),         # backbones.md section 1
    camera_head=None, depth_head=None,
    geometry_head=dict(type='Pi3Geometry', activation_checkpointing=True))
parameter_groups = dict(pretrained=dict(parameters=['backbone.*', 'geometry_head.*']))
profiles = dict(rooms=dict(weights=None))           # the committed VGGT weights, which stay the teacher, do not fit
experiment = dict(weights_licence='follows Pi3 (CC BY-NC 4.0), its teacher VGGT-1B, and ScanNet: non-commercial')
