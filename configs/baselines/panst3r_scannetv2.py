# Table 2, row PanSt3R, ScanNetv2: the same model, trained and scored on the objects of ScanNetv2's 18 classes.
_base_ = './panst3r.py'

model = dict(num_classes=18)
train_dataset = dict(benchmark='scannet20')
val_dataset = dict(benchmark='scannet20')
test_dataset = dict(benchmark='scannet20')
metrics = dict(instances=dict(benchmark='scannet20'), panoptic=dict(benchmark='scannet20'))
experiment = dict(trained_on='ScanNetv2 training scenes')
