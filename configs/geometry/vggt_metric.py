# Beside Table 9: the paper's first future work, metres: geometry fine-tuning that learns one scale per scene, and is scored
# without alignment. The same model with one scale per scene: the numbers depth/median/abs_rel and so on beside.
#   python tools/train.py configs/geometry/vggt_metric.py --profile rooms --work-dir metric
_base_ = './segvggt_geometry_only.py'

model = dict(
    scale_head=dict(type='ScaleHead'),
    losses=dict(scale=dict(type='MetricScaleLoss')), weights=dict(scale=1.0),
    teacher=dict(truth='scale'))                    # shapes are the teacher's, metres those of the data
parameter_groups = dict(new=dict(parameters=['scale_head.*', '*.lora_[ab]']))
metrics = dict(depth=dict(scale='metric'))
