# ScanNet200 as points, for methods that see the true mesh: its vertices, 2 cm voxels, superpoints (baselines.md section 3).
weights = None                                  # the releases start from others' U-Nets: weights=FILE
batches = dict(type='PointBatchSampler', scenes=4, slots=1)
_data = dict(type='PointSceneDataset', folder='scannet', benchmark='scannet200', voxel_m=0.02)
train_dataset = dict(mode='train', split='train', max_points=250000, **_data)
val_dataset = dict(mode='test', split='val', limit_scenes=24, **_data)
test_dataset = dict(mode='test', split='val', **_data)
metrics = dict(instances=dict(type='InstanceAPMetric', benchmark='scannet200', transfer=dict(type='SuperpointTransfer')))
optimizer = dict(type='AdamW', weight_decay=0.05)
parameter_groups = dict(
    new=dict(lr=1e-4, parameters=['decoder.*', 'pooling.*']), pretrained=dict(lr=1e-4, parameters=['network.*']))
experiment = dict(trained_on='ScanNet200 training scenes', weights_licence='follows ScanNet: non-commercial')
# The built-in rooms have vertices about 10 cm apart: at 2 cm half of the voxels would have no neighbour.
_rooms = dict(voxel_m=0.1)
_learning = dict(new=dict(lr=1e-3), pretrained=dict(lr=2e-3))
profiles = dict(
    rooms=dict(
        weights=None, train_dataset=_rooms, val_dataset=_rooms, test_dataset=_rooms, batches=dict(scenes=2),
        parameter_groups=_learning, train=dict(warmup=0.05, iterations=800, save_every=400)),
    rooms_small=dict(
        train_dataset=_rooms, val_dataset=_rooms, test_dataset=_rooms, parameter_groups=_learning),
    debug=dict(
        train_dataset=_rooms, val_dataset=_rooms, test_dataset=_rooms, batches=dict(scenes=2, slots=2)))
