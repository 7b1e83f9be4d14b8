# Beside Table 3: alignment not divided by the number of views, as loss and cost (ours; of Eq. 8 and 9 only words are left).
_base_ = './all24_fada.py'

model = dict(
    matcher=dict(costs=dict(fada=dict(per_view=False))),
    losses=dict(fada=dict(per_view=False)))
