# Beside Table 3: both at once, the alignment loss as a sum over matched pairs and no division by the number of views (ours).
_base_ = './all24_fada.py'

model = dict(
    matcher=dict(costs=dict(fada=dict(per_view=False))),
    losses=dict(fada=dict(reduction='sum', per_view=False)))
