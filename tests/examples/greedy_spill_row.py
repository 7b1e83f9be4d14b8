_base_ = '../../configs/segvggt/all24_fada.py'
plugins = ['./greedy_spill']
model = dict(
    weights=dict(elsewhere=0.5),
    matcher=dict(type='KNearestMatcher', k=2, costs=dict(elsewhere=dict(type='ElsewhereCost'))),
    losses=dict(elsewhere=dict(type='ElsewhereLoss')))
