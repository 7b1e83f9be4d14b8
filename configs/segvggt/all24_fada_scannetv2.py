# Table 1, column ScanNetv2: the same model with the 18 classes of ScanNetv2.
_base_ = './all24_fada.py'

model = dict(num_classes=18)
train_dataset = dict(benchmark='scannet20')
val_dataset = dict(benchmark='scannet20')
test_dataset = dict(benchmark='scannet20')
metrics = dict(instances=dict(benchmark='scannet20'))
experiment = dict(trained_on='ScanNetv2 training scenes')
