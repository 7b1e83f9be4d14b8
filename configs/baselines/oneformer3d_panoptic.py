# Beside Table 1, row OneFormer3D, ScanNet200: its panoptic output, wall and floor included (baselines.md section 2.3). Ours.
_base_ = './oneformer3d.py'

metrics = dict(panoptic=dict(
    type='PanopticMetric', benchmark='scannet200', where='vertices', transfer=dict(type='SuperpointTransfer')))
