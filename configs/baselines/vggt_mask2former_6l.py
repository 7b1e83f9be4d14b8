# Table 8: VGGT (FT) + mask decoder of 6 layers. Queries in a decoder of their own after VGGT; no alignment.
_base_ = '../segvggt/all24_fada.py'

plugins = ['mask_decoder']
model = dict(
    queries=dict(                                   # baselines.md section 4.2: Mask2Former's sizes, SegVGGT's Q and D
        _delete_=True, type='MaskDecoder', layers=6, num_queries=400, num_heads=8, width=256, hidden=2048,
        embedding_dim=128),
    levels='sum',                                   # of the losses over decoder levels; Mask2Former adds them, ours to keep
    alignment=None,
    matcher=dict(costs=dict(fada=None)),
    losses=dict(fada=None))
