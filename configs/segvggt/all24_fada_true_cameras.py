# Beside Table 9: the data set's cameras, the frozen VGGT's depth (ours). Profiles: as all24_fada_true_geometry.py says.
_base_ = './all24_fada.py'

model = dict(teacher=dict(truth='cameras'))
