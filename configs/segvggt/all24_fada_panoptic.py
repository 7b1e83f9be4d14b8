# Beside Table 1, column ScanNetv2: wall and floor as classes, too, for panoptic quality of things and stuff. Ours.
_base_ = './all24_fada.py'

model = dict(num_classes=20)                        # 18 things, 2 kinds of stuff
_data = dict(benchmark='scannet20', stuff=('wall', 'floor'))
train_dataset = _data
val_dataset = _data
test_dataset = _data
metrics = dict(
    instances=dict(benchmark='scannet20'), panoptic=dict(type='PanopticMetric', benchmark='scannet20'))
experiment = dict(trained_on='ScanNetv2 training scenes')
