# Table 9, row "Geometry fine-tuning only": the same architecture without queries and instance terms.
_base_ = '../segvggt/all24_fada.py'

model = dict(
    queries=None, feature_head=None, class_head=None, matcher=None, alignment=None, postprocessor=None,
    losses=dict(classification=None, mask_bce=None, mask_dice=None, fada=None))
parameter_groups = dict(new=dict(optional=True))        # without LoRA (other profiles) nothing is new
metrics = dict(instances=None)
