# Beside Table 2, row PanSt3R: version 2 of its design, whose pixels read the patches (baselines.md section 4.5).
_base_ = './panst3r.py'

weights = 'weights/PanSt3R/panst3r_v2_512_5ds.pth'
model = dict(queries=dict(embedding_dim=384), feature_head=dict(
    _delete_=True, type='PanSt3RGuidedFeatures', width=768, num_heads=12, layers=3, activation_checkpointing=True,
    upsampler=dict(dim=384, num_heads=4, layers=2), dino=dict(embed_dim=1024, depth=24, num_heads=16, img_size=518)))
_rooms = dict(num_heads=4, layers=1, dino=None, activation_checkpointing=False)
profiles = dict(
    rooms=dict(model=dict(feature_head=dict(_delete_=True, width=64, upsampler=dict(dim=32, layers=1), **_rooms))),
    rooms_small=dict(model=dict(feature_head=dict(_delete_=True, width=128, upsampler=dict(dim=48, layers=1), **_rooms))),
    debug=dict(model=dict(feature_head=dict(
        _delete_=True, width=32, num_heads=4, layers=1, activation_checkpointing=False, upsampler=dict(dim=16, layers=1),
        dino=dict(embed_dim=16, depth=1, num_heads=2, img_size=28)))))
