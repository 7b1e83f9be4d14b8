# Beside Table 3: SegVGGT whose instance features have a part that all pixels of a view share (ours).
_base_ = '../../../configs/segvggt/all24_fada.py'

plugins = ['view_term']
model = dict(feature_head=dict(type='ViewTermFeatureHead'))
