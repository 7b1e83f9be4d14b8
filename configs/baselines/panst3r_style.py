# Beside Table 2, row PanSt3R: "PanSt3R-style", the same decoder on a frozen VGGT, whose last tap it reads; no DINOv2 beside.
# Any registered backbone does, frozen or not: inherit from this file, name its backbone, heads and weights.
_base_ = ['./panst3r.py']

weights = 'weights/VGGT-1B/model.pt'                # facebook/VGGT-1B; features, queries and classes start fresh
model = dict(
    key_views=None,
    frozen=('camera_head', 'depth_head'),
    backbone=dict(_delete_=True, type='VGGT', feature_layers=(4, 11, 17, 23), freeze=dict(patch_embed=True, blocks=True)),
    camera_head=dict(type='CameraHead', num_heads=16),
    depth_head=dict(type='DepthHead', features=256, out_channels=(256, 512, 1024, 1024)),
    geometry_head=None,
    feature_head=dict(dino=None, taps=(-1,)))
train_dataset = dict(width=518)
val_dataset = dict(width=518)
test_dataset = dict(width=518)
profiles = dict(debug=dict(model=dict(
    key_views=None, feature_head=dict(dino=None), backbone=dict(
        _delete_=True, feature_layers=(0, 1, 2, 3), freeze=dict(patch_embed=True, blocks=True)))))
experiment = dict(weights_licence='follows VGGT-1B and ScanNet: non-commercial')
