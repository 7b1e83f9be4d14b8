# Beside Table 9: Pi3 by itself, fine-tuned on geometry: its own cameras and depth, no queries.
_base_ = '../../../configs/segvggt/all24_fada.py'

plugins = ['pi3']
weights = 'weights/Pi3/model.safetensors'           # yyfz233/Pi3, CC BY-NC 4.0
model = dict(
    backbone=dict(type='Pi3', depth=18, feature_layers=(3, 8, 13, 17)),         # backbones.md section 1
    camera_head=None, depth_head=None,
    geometry_head=dict(type='Pi3Geometry', activation_checkpointing=True),
    queries=None, feature_head=None, class_head=None, matcher=None, alignment=None, postprocessor=None,
    losses=dict(classification=None, mask_bce=None, mask_dice=None, fada=None))
parameter_groups = dict(new=dict(optional=True), pretrained=dict(parameters=['backbone.*', 'geometry_head.*']))
metrics = dict(instances=None)
profiles = dict(rooms=dict(weights=None))           # the committed VGGT weights, which stay the teacher, do not fit
experiment = dict(weights_licence='follows Pi3 (CC BY-NC 4.0), its teacher VGGT-1B, and ScanNet: non-commercial')
