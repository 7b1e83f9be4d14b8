# Table 4, row "Late 12": queries read tokens in the second half of the layers.
_base_ = './all24_fada.py'

model = dict(queries=dict(insertion=dict(_delete_=True, type='LateLayers')))
