"""The main experiment with a backbone of one's own that starts from random numbers, without cameras."""

_base_ = '../../configs/segvggt/all24_fada.py'
plugins = ['./local_global.py']
model = dict(backbone=dict(_delete_=True, type='LocalGlobal'), camera_head=None, losses=dict(camera=None))
metrics = dict(cameras=None)
weights = None
parameter_groups = dict(pretrained=dict(lr=2e-4))   # nothing of it is pre-trained
profiles = dict(rooms=dict(weights=None))
