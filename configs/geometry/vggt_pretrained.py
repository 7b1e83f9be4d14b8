# Table 9, row "VGGT pre-trained": VGGT-1B as published. Nothing trains for this row, its weights are tested as they are:
#   python tools/test.py configs/geometry/vggt_pretrained.py weights/VGGT-1B/model.pt
_base_ = '../segvggt/all24_fada.py'

model = dict(
    backbone=dict(lora=None), queries=None, feature_head=None, class_head=None, matcher=None, alignment=None,
    postprocessor=None, losses=dict(classification=None, mask_bce=None, mask_dice=None, fada=None))
parameter_groups = dict(new=None)                       # who trains it all the same fine-tunes VGGT, without LoRA
metrics = dict(instances=None)
experiment = dict(trained_on='many public 3D data sets, see the VGGT paper', weights_licence='VGGT-1B: non-commercial')
