# Beside Table 9: FastVGGT, that is VGGT-1B as published with token merging in every global block. Nothing trains for it:
#   python tools/test.py plugins/fast_vggt/configs/fast_vggt_geometry.py weights/VGGT-1B/model.pt
_base_ = '../../../configs/segvggt/all24_fada.py'

plugins = ['fast_vggt']
model = dict(
    backbone=dict(lora=None, global_attention=dict(type='TokenMerging', ratio=0.9, start=0)),   # backbones.md section 4
    queries=None, feature_head=None, class_head=None, matcher=None, alignment=None, postprocessor=None,
    losses=dict(classification=None, mask_bce=None, mask_dice=None, fada=None))
parameter_groups = dict(new=None)                       # who trains it all the same fine-tunes VGGT, without LoRA
metrics = dict(instances=None)
experiment = dict(trained_on='many public 3D data sets, see the VGGT paper', weights_licence='VGGT-1B: non-commercial')
