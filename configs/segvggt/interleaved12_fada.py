# Table 4, row "Interleaved": queries read tokens at every other layer, 1, 3, ..., the last included.
_base_ = './all24_fada.py'

model = dict(queries=dict(insertion=dict(_delete_=True, type='InterleavedLayers')))
