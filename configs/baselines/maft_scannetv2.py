# Table 1, MAFT on ScanNetv2: SPFormer with queries that have a place in the scene (baselines.md section 3.4).
_base_ = './maft.py'

model = dict(num_classes=18)
train_dataset = dict(benchmark='scannet20')
val_dataset = dict(benchmark='scannet20')
test_dataset = dict(benchmark='scannet20')
metrics = dict(instances=dict(benchmark='scannet20'))
experiment = dict(trained_on='ScanNetv2 training scenes')
