# Beside Table 1: SegVGGT on Pi3X: no reference view, roughly metric; queries at all 18 layers, Pi3X's own geometry.
_base_ = '../../../configs/segvggt/all24_fada.py'

plugins = ['pi3x']
weights = 'weights/Pi3X/model.safetensors'          # yyfz233/Pi3X, CC BY-NC 4.0; queries and their heads start fresh
model = dict(
    backbone=dict(type='Pi3X', depth=18, feature_layers=(3, 8, 13, 17)),        # backbones.md section 1; images alone
    camera_head=None, depth_head=None,
    geometry_head=dict(type='Pi3XGeometry', activation_checkpointing=True),
    losses=dict(scale=dict(type='MetricScaleLoss')), weights=dict(scale=1.0),
    teacher=dict(truth='scale'))                    # its shapes are the teacher's, its metres those of the data
parameter_groups = dict(pretrained=dict(parameters=['backbone.*', 'geometry_head.*']))
profiles = dict(
    debug=dict(model=dict(geometry_head=dict(depth=1, widths=(8, 8, 8), last_width=8))),
    rooms=dict(                                     # the committed VGGT weights, which stay the teacher, do not fit
        weights=None, model=dict(geometry_head=dict(depth=2, widths=(32, 16, 16), last_width=16))),
    rooms_small=dict(model=dict(geometry_head=dict(depth=2, widths=(64, 32, 16), last_width=16))))
experiment = dict(weights_licence='follows Pi3X (CC BY-NC 4.0), its teacher VGGT-1B, and ScanNet: non-commercial')
