# Beside Table 9: MUSt3R by itself, fine-tuned on geometry: its own points, cameras in closed form, no queries.
_base_ = './must3r_fada.py'

model = dict(
    queries=None, feature_head=None, class_head=None, matcher=None, alignment=None, postprocessor=None,
    losses=dict(classification=None, mask_bce=None, mask_dice=None, fada=None))
parameter_groups = dict(new=dict(optional=True))
metrics = dict(instances=None)
