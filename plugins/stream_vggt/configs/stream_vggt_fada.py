# Beside Table 1: SegVGGT on StreamVGGT: views see earlier ones only, so that a long video can come one view at a time.
_base_ = '../../../configs/segvggt/all24_fada.py'

plugins = ['stream_vggt']
weights = 'weights/StreamVGGT/checkpoints.pth'      # lch01/StreamVGGT, CC BY-NC-SA 4.0; queries and their heads start fresh
model = dict(
    backbone=dict(type='StreamVGGT'),                                           # backbones.md section 6.2
    camera_head=dict(trunk_attention=dict(type='CausalViews')))
experiment = dict(weights_licence='follows StreamVGGT (CC BY-NC-SA 4.0), its teacher VGGT-1B, and ScanNet: non-commercial')
