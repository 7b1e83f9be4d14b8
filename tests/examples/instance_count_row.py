_base_ = '../../configs/segvggt/all24_fada.py'
plugins = ['./instance_count_metric.py']
metrics = dict(count=dict(type='InstanceCount', min_score=0.1))
