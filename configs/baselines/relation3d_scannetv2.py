# Table 1, Relation3D on ScanNetv2: MAFT, and queries know each other's boxes, superpoints change (baselines.md 3.8).
_base_ = './relation3d.py'

model = dict(num_classes=18, decoder=dict(num_queries=400), postprocessor=dict(top_pairs=800),
             losses=dict(mask_dice=dict(last_scale=6.0)))         # a sum over its batch of 6
batches = dict(scenes=6)
train_dataset = dict(benchmark='scannet20')
val_dataset = dict(benchmark='scannet20')
test_dataset = dict(benchmark='scannet20')
metrics = dict(instances=dict(benchmark='scannet20'))
train = dict(iterations=102485)                     # 512 epochs of 1201 scenes, six at a time
experiment = dict(trained_on='ScanNetv2 training scenes')
