# Beside Table 9: what VGGT's own training is to the paper, at the size of built-in rooms: cameras and depth from scratch.
# Follows pretrain_rooms_neighbours.py, in which correspondence appears: --cfg-options weights=RUN/weights.safetensors
_base_ = './segvggt_geometry_only.py'

weights = None
model = dict(
    backbone=dict(lora=None, freeze=dict(patch_embed=False), activation_checkpointing=False),
    teacher=dict(_delete_=True, type='GroundTruthTeacher'), pretext=dict(type='Correspondence'))
parameter_groups = dict(new=None, pretrained=dict(parameters=['backbone.*', 'camera_head.*', 'depth_head.*', 'pretext.*']))
train_dataset = dict(transform=None)                            # minutes leave no time to learn to see through colours
profiles = dict(debug=dict(model=dict(pretext=dict(matching_layers=(1,), displacement_layers=(2,)))),
                rooms=dict(weights=None, model=dict(backbone=dict(lora=None)), batches=dict(views=(2, 12), slots=2),
                           train=dict(iterations=1500), train_dataset=dict(view_spacing=(1, 5)),
                           parameter_groups=dict(pretrained=dict(lr=1.5e-3))),
                rooms_small=dict(batches=dict(views=(2, 16)), train=dict(iterations=8000)))
