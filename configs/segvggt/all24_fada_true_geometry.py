# Beside Table 9: the data set's cameras and depth supervise the geometry in place of the frozen VGGT (ours).
# Under profiles without pre-trained weights every experiment has this teacher: there it is all24_fada.py.
_base_ = './all24_fada.py'

model = dict(teacher=dict(_delete_=True, type='GroundTruthTeacher'))
