# Beside Table 1: SegVGGT on VGGT-Omega; queries at all 24 layers, register layers too, its own cameras and depth.
_base_ = '../../../configs/segvggt/all24_fada.py'

plugins = ['vggt_omega']
weights = 'weights/VGGT-Omega/vggt_omega_1b_512.pt'     # facebook/VGGT-Omega, gated; queries and their heads start fresh
model = dict(
    backbone=dict(type='VGGTOmega', img_size=512, patch_size=16, patch_embed='dinov3_vitl16', init_values=1e-5),
    camera_head=None, depth_head=None,
    geometry_head=dict(type='VGGTOmegaGeometry', activation_checkpointing=True),
    queries=dict(special_layers=True))                  # False: at the 19 layers only where patches see other views
parameter_groups = dict(pretrained=dict(parameters=['backbone.*', 'geometry_head.*']))
train_dataset, val_dataset, test_dataset = dict(width=512), dict(width=512), dict(width=512)    # backbones.md section 2
profiles = dict(rooms=dict(weights=None))               # the committed VGGT weights, which stay the teacher, do not fit
experiment = dict(weights_licence='follows VGGT-Omega (FAIR Noncommercial), its teacher VGGT-1B, ScanNet: non-commercial')
