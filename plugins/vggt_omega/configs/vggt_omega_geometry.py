# Beside Table 9: VGGT-Omega by itself, fine-tuned on geometry: its own cameras and depth, no queries.
_base_ = '../../../configs/segvggt/all24_fada.py'

plugins = ['vggt_omega']
weights = 'weights/VGGT-Omega/vggt_omega_1b_512.pt'     # facebook/VGGT-Omega, gated
model = dict(
    backbone=dict(type='VGGTOmega', img_size=512, patch_size=16, patch_embed='dinov3_vitl16', init_values=1e-5),
    camera_head=None, depth_head=None,
    geometry_head=dict(type='VGGTOmegaGeometry', activation_checkpointing=True),
    queries=None, feature_head=None, class_head=None, matcher=None, alignment=None, postprocessor=None,
    losses=dict(classification=None, mask_bce=None, mask_dice=None, fada=None))
parameter_groups = dict(new=dict(optional=True), pretrained=dict(parameters=['backbone.*', 'geometry_head.*']))
train_dataset, val_dataset, test_dataset = dict(width=512), dict(width=512), dict(width=512)    # backbones.md section 2
metrics = dict(instances=None)
profiles = dict(rooms=dict(weights=None))               # the committed VGGT weights, which stay the teacher, do not fit
experiment = dict(weights_licence='follows VGGT-Omega (FAIR Noncommercial), its teacher VGGT-1B, ScanNet: non-commercial')
