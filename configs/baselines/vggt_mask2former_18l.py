# Table 8: VGGT (FT) + mask decoder of 18 layers.
_base_ = './vggt_mask2former_6l.py'

model = dict(queries=dict(layers=18))
