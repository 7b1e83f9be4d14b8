# Beside Table 3: SegVGGT whose classes are learned as probable as the overlap of their masks (ours).
_base_ = '../../../configs/segvggt/all24_fada.py'

plugins = ['mask_quality']
model = dict(losses=dict(classification=dict(type='QualityClassLoss')))
