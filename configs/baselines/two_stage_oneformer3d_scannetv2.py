# Table 1, OneFormer3D on ScanNetv2 on the reconstruction of VGGT: scale and z-up from true cameras (baselines.md 4.3).
# Another method: its config in the next line.
_base_ = './oneformer3d_scannetv2.py'

_of = _base_['_two_stage']
_data = dict(benchmark=_base_.test_dataset.benchmark, **_of['views'])
model = dict(reconstruction=dict(points=_base_.test_dataset, **_of['reconstruction']))
val_dataset = dict(_delete_=True, limit_scenes=24, **_data)
test_dataset = dict(_delete_=True, **_data)
metrics = dict(instances=dict(transfer=dict(_delete_=True, **_of['transfer'])), points=dict(type='PointQuality'))
_rooms = dict(model=_of['rooms'], val_dataset=dict(_delete_=True), test_dataset=dict(_delete_=True))
profiles = dict(rooms=_rooms, rooms_small=_rooms, debug=_rooms)
