# Beside Table 1: SegVGGT on MapAnything V1, less than half of V1.1's weights; queries at the 12 layers that see the scene.
_base_ = './map_anything_fada.py'

weights = 'weights/MapAnythingV1/model.safetensors'  # facebook/map-anything-apache-v1; queries and their heads start fresh
model = dict(
    backbone=dict(                                  # backbones.md section 3; LoRA on the 24 layers, the encoder frozen
        _delete_=True, type='MapAnythingV1', img_size=518, patch_size=14, embed_dim=768, depth=24, num_heads=12,
        patch_embed='dinov2_vitl14', encoder_dim=1024, encoder_heads=16, feature_layers=(-1, 11, 17, 23),
        activation_checkpointing=True, lora=dict(rank=32, alpha=32, dropout=0.0),
        freeze=dict(patch_embed=True, blocks=False)),
    geometry_head=dict(type='MapAnythingV1Geometry', encoder_dim=1024),
    queries=dict(num_heads=12))                     # of 64, as in the layers
_encoder = dict(encoder_dim=32, encoder_heads=2)
profiles = dict(
    debug=dict(model=dict(backbone=_encoder, geometry_head=dict(encoder_dim=32))),
    rooms=dict(model=dict(backbone=_encoder, geometry_head=dict(encoder_dim=32))),
    rooms_small=dict(model=dict(backbone=_encoder, geometry_head=dict(encoder_dim=32))))
