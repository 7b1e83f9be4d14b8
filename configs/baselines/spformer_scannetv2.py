# Table 1, SPFormer on ScanNetv2: learned queries read superpoints of a sparse U-Net (baselines.md section 3.2).
_base_ = './spformer.py'

model = dict(num_classes=18)
train_dataset = dict(benchmark='scannet20')
val_dataset = dict(benchmark='scannet20')
test_dataset = dict(benchmark='scannet20')
metrics = dict(instances=dict(benchmark='scannet20'))
experiment = dict(trained_on='ScanNetv2 training scenes')
