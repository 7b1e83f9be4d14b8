# Table 3, row 1: no alignment, neither as loss nor as matching cost.
_base_ = './all24_fada.py'

model = dict(alignment=None, matcher=dict(costs=dict(fada=None)), losses=dict(fada=None))
