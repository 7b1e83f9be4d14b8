# Beside Table 2: "Pano3D-style", a mask decoder trained jointly with the geometry on Pi3 (baselines.md section 6).
# Its features are those of the encoder and of the last layer across views, its decoder of geometry learns on geometry and
# masks together, no clustering: so much is known of Pano3D. Sizes, losses, weights and schedule are those of panst3r.py.
_base_ = ['./panst3r.py']

plugins = ['pi3']
weights = 'weights/Pi3/model.safetensors'           # yyfz233/Pi3, CC BY-NC 4.0; features, queries and classes start fresh
_geometry = dict(camera=dict(type='CameraLoss'), depth=dict(type='DepthLoss'))
_truth = dict(type='GroundTruthTeacher')
model = dict(
    key_views=None,
    frozen=(),
    backbone=dict(_delete_=True, type='Pi3', feature_layers=(-1, 17), freeze=dict(patch_embed=True, blocks=False)),
    geometry_head=dict(_delete_=True, type='Pi3Geometry', activation_checkpointing=True),
    feature_head=dict(dino=None),
    weights=dict(camera=5.0, depth=1.0), losses=_geometry, teacher=_truth,
    postprocessor=dict(_delete_=True, type='QueryMasks', mode='pairs', top_pairs=600, min_pixels=200))
train_dataset = dict(width=518)
val_dataset = dict(width=518)
test_dataset = dict(width=518)
parameter_groups = dict(pretrained=dict(lr=1e-5))   # ours
profiles = dict(
    rooms=dict(model=dict(                          # VGGT: features of its first and last tap
        frozen=(), feature_head=dict(taps=(0, -1)), backbone=dict(freeze=dict(patch_embed=False, blocks=False)),
        teacher=_truth), parameter_groups=dict(pretrained=dict(lr=1e-3))),
    rooms_small=dict(model=dict(feature_head=dict(taps=(0, -1)))),
    debug=dict(model=dict(
        key_views=None, frozen=(), feature_head=dict(dino=None),
        backbone=dict(_delete_=True, depth=2, feature_layers=(-1, 1), freeze=dict(patch_embed=False, blocks=False)))))
experiment = dict(weights_licence='follows Pi3 (CC BY-NC 4.0) and ScanNet: non-commercial')
