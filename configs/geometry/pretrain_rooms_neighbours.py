# Beside Table 9: first stage of pretrain_rooms.py, two or three views that lie close together.
_base_ = './pretrain_rooms.py'

_close = dict(batches=dict(views=(2, 3)), train_dataset=dict(view_spacing=(1, 3)))
batches = _close['batches']
train_dataset = _close['train_dataset']
profiles = dict(
    debug=dict(**_close, model=dict(pretext=dict(matching_layers=(1,), displacement_layers=(2,)))),
    rooms=dict(**_close, train=dict(iterations=900), parameter_groups=dict(pretrained=dict(lr=2e-3))),
    rooms_small=dict(**_close, train=dict(iterations=4000)))
