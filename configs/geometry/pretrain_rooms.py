# Beside Table 9: what VGGT's own training is to the paper, at the size of built-in rooms: cameras and depth from scratch.
# Two stages, neighbouring views first: correspondence appears there, and wide windows build on it (docs/rooms.md).
#   python tools/train.py configs/geometry/pretrain_rooms_neighbours.py --profile rooms
#   python tools/train.py configs/geometry/pretrain_rooms.py --profile rooms --cfg-options weights=RUN/weights.safetensors
_base_ = './segvggt_geometry_only.py'

weights = None
_scratch = dict(backbone=dict(lora=None), teacher=dict(_delete_=True, type='GroundTruthTeacher'))
model = dict(
    backbone=dict(lora=None, freeze=dict(patch_embed=False), activation_checkpointing=False),
    teacher=_scratch['teacher'],
    pretext=dict(type='CorrespondenceHead'))
parameter_groups = dict(
    new=None,                                                   # nothing is fine-tuned
    pretrained=dict(lr=1e-3, parameters=['backbone.*', 'camera_head.*', 'depth_head.*', 'pretext.*']))
train_dataset = dict(transform=None)                            # minutes leave no time to learn to see through colours
profiles = dict(
    debug=dict(model=dict(pretext=dict(matching_layers=(1,), displacement_layers=(2,)))),
    rooms=dict(
        weights=None, model=_scratch, batches=dict(views=(2, 12)), train_dataset=dict(view_spacing=(1, 5)),
        train=dict(iterations=1500), parameter_groups=dict(pretrained=dict(lr=1.5e-3))),
    rooms_small=dict(
        model=dict(pretext=dict(matching_layers=(7, 11), displacement_layers=(11, 17, 23))),
        batches=dict(views=(2, 16)), train_dataset=dict(view_spacing=(1, 6)), train=dict(iterations=8000)))
