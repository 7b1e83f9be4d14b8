# Table 1, Mask3D on ScanNetv2: queries read voxels at four strides, three times (baselines.md section 3.6).
_base_ = './mask3d.py'

model = dict(num_classes=18, postprocessor=dict(top_pairs=500, num_labels=None))
train_dataset = dict(benchmark='scannet20')
val_dataset = dict(benchmark='scannet20')
test_dataset = dict(benchmark='scannet20')
metrics = dict(instances=dict(benchmark='scannet20'))
experiment = dict(trained_on='ScanNetv2 training scenes')
