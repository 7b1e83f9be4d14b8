# Table 1, MAFT on ScanNet200: SPFormer with queries that have a place in the scene (baselines.md section 3.4).
_base_ = './spformer.py'

_small = dict(_delete_=True, type='PlacedDecoder', num_queries=100, layers=3, width=64, num_heads=4, hidden=128)
model = dict(
    decoder=dict(_delete_=True, type='PlacedDecoder', num_queries=400, layers=6, width=256, num_heads=8, hidden=1024),
    weights=dict(centre=0.5),
    matcher=dict(costs=dict(centre=dict(type='CentreCost'))),
    losses=dict(centre=dict(type='CentreLoss', scene_reduction='pooled')))
profiles = dict(
    rooms=dict(model=dict(decoder=_small)), rooms_small=dict(model=dict(decoder=_small)),
    debug=dict(model=dict(decoder=dict(
        _delete_=True, type='PlacedDecoder', num_queries=12, layers=2, width=16, num_heads=2, hidden=32))))
