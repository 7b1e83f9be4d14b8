# Beside Table 9: the data set's depth, the frozen VGGT's cameras (ours). Profiles: as all24_fada_true_geometry.py says.
_base_ = './all24_fada.py'

model = dict(teacher=dict(truth='depth'))
