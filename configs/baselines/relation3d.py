# Table 1, Relation3D on ScanNet200: MAFT, and queries know each other's boxes, superpoints change (baselines.md 3.8).
_base_ = './maft.py'

_data = dict(features=('color', 'position', 'normal'))
_small = dict(model=dict(decoder=dict(masks_of='keys', update_after=(0,), relations=True)))
model = dict(network=dict(dim_in=9), pooling=dict(type='AdaptivePooling'), weights=dict(contrast=1.0),
             decoder=dict(num_queries=500, masks_of='keys', update_after=(0, 3), relations=True),
             losses=dict(contrast=dict(type='SuperpointContrastLoss')), targets=dict(superpoint_ids='most'),     # ours
             postprocessor=dict(top_pairs=3200, score_head=False, query_overlap=0.75))
train_dataset = _data
val_dataset = _data
test_dataset = _data
parameter_groups = dict(new=dict(lr=2e-4), pretrained=dict(lr=2e-4))
profiles = dict(rooms=_small, rooms_small=_small, debug=_small)
