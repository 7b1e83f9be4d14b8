# The joint experiment on recordings of TUM's layout below DATA_ROOT/tum, with classes of their own.
_base_ = '../../configs/segvggt/all24_fada.py'
plugins = ['./tum_scenes.py']
data_root = 'DATA_ROOT'
benchmarks = dict(furniture=dict(class_names=('chair', 'table', 'office chair', 'strange thing'), min_region=9))
model = dict(num_classes=4)
_data = dict(_delete_=True, type='TumScenes', folder='tum', benchmark='furniture', width=518)
train_dataset = dict(mode='train', split='train', view_spacing=(1, 3), transform=dict(type='TrainViews'), **_data)
val_dataset = dict(mode='test', split='val', max_views=24, **_data)
test_dataset = dict(mode='test', split='val', **_data)
metrics = dict(instances=dict(benchmark='furniture'))
experiment = dict(trained_on='recordings of TUM\'s layout', weights_licence='as the recordings: ask their owner')
