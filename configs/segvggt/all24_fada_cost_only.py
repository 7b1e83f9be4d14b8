# Beside Table 3: the matching cost without the alignment loss (ours).
_base_ = './all24_fada.py'

model = dict(losses=dict(fada=None))
