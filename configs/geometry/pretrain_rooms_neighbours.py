# Beside Table 9: first stage of pretrain_rooms.py, two or three views that lie close together.
_base_ = './pretrain_rooms.py'

batches = dict(views=(2, 3))
train_dataset = dict(view_spacing=(10, 30))
profiles = dict(
    debug=dict(batches=dict(views=(2, 3)), train_dataset=dict(view_spacing=(1, 2))),
    rooms=dict(batches=dict(views=(2, 3)), train_dataset=dict(view_spacing=(1, 3)), train=dict(iterations=900),
               parameter_groups=dict(pretrained=dict(lr=2e-3))),
    rooms_small=dict(batches=dict(views=(2, 3)), train_dataset=dict(view_spacing=(1, 3)), train=dict(iterations=4000)))
