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
# Two-stage rows: the same method, its weights as they are, on points that a frozen model (any with cameras and depth) makes
# of images; here VGGT-1B, in its own unit. Scored as methods that see images.
_two_stage = dict(
    reconstruction=dict(
        type='ReconstructedPoints', geometry=dict(
            type='PretrainedTeacher', checkpoint='weights/VGGT-1B/model.pt', rescale=False, weigh=True, model=dict(
                type='SegVGGT', camera_head=dict(type='CameraHead', num_heads=16), depth_head=dict(
                    type='DepthHead', features=256, out_channels=(256, 512, 1024, 1024)),
                backbone=dict(
                    type='VGGT', img_size=518, patch_size=14, embed_dim=1024, depth=24, num_heads=16,
                    patch_embed='dinov2_vitl14_reg', feature_layers=(4, 11, 17, 23))))),
    views=dict(type='SceneDataset', mode='test', folder='scannet', split='val', width=518, every=20),
    transfer=dict(type='PosedTransfer', depth_tolerance_m=0.10),
    rooms=dict(reconstruction=dict(
        points=dict(voxel_m=0.1),
        alignment='directions',                     # camera centres that the small geometry predicts mean nothing
        normal_neighbours=6, threshold=0.003, min_size=3)))         # at 10 cm 16 points are half a metre
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
