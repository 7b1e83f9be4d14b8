# Beside Table 9: what VGGT's own training is to the paper, at the size of built-in rooms: cameras and depth from scratch.
#   python tools/train.py configs/geometry/pretrain_rooms.py --profile rooms
_base_ = './segvggt_geometry_only.py'

weights = None
model = dict(
    backbone=dict(lora=None, freeze=dict(patch_embed=False)),
    teacher=dict(_delete_=True, type='GroundTruthTeacher'))
parameter_groups = dict(new=None, pretrained=dict(lr=1e-3))     # nothing is fine-tuned
profiles = dict(
    rooms=dict(batches=dict(views=(2, 8)), train_dataset=dict(view_spacing=(1, 3)), train=dict(iterations=8000)),
    rooms_small=dict(batches=dict(views=(2, 16)), train_dataset=dict(view_spacing=(1, 3)), train=dict(iterations=12000)))
