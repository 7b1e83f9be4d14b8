# Beside Table 3: the alignment loss as the sum over matched pairs, not their mean (ours; Eq. 9 is lost, [P] names no pairs).
_base_ = './all24_fada.py'

model = dict(losses=dict(fada=dict(reduction='sum')))
