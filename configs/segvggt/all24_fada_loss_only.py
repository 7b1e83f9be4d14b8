# Table 3, row 2: the alignment loss without the matching cost.
_base_ = './all24_fada.py'

model = dict(matcher=dict(costs=dict(fada=None)))
