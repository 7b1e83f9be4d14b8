# Beside Table 9: MapAnything V1 by itself, fine-tuned on geometry: its own cameras, depth and metres, no queries.
_base_ = './map_anything_v1_fada.py'

model = dict(
    queries=None, feature_head=None, class_head=None, matcher=None, alignment=None, postprocessor=None,
    losses=dict(classification=None, mask_bce=None, mask_dice=None, fada=None))
parameter_groups = dict(new=dict(optional=True))
metrics = dict(instances=None)
