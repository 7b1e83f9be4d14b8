# Beside Table 9: StreamVGGT as published, cameras and depth. Nothing trains for it, its weights are tested as they are:
#   python tools/test.py plugins/stream_vggt/configs/stream_vggt_geometry.py weights/StreamVGGT/checkpoints.pth
_base_ = '../../../configs/segvggt/all24_fada.py'

plugins = ['stream_vggt']
weights = 'weights/StreamVGGT/checkpoints.pth'      # lch01/StreamVGGT, CC BY-NC-SA 4.0
model = dict(
    backbone=dict(type='StreamVGGT', lora=None),                                # backbones.md section 6.2
    camera_head=dict(trunk_attention=dict(type='CausalViews')),
    queries=None, feature_head=None, class_head=None, matcher=None, alignment=None, postprocessor=None,
    losses=dict(classification=None, mask_bce=None, mask_dice=None, fada=None))
parameter_groups = dict(new=None)                   # who trains it all the same fine-tunes StreamVGGT, without LoRA
metrics = dict(instances=None)
experiment = dict(trained_on='many public 3D data sets', weights_licence='StreamVGGT: CC BY-NC-SA 4.0, non-commercial')
