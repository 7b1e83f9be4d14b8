# Table 1, OneFormer3D on ScanNetv2: SPFormer's sparse U-Net in place of Res16UNet34C, positions beside colours.
_base_ = './oneformer3d.py'

_data = dict(features=('color', 'position'), color_scale='signed', centred=True, voxel_origin='scene', benchmark='scannet20')
model = dict(
    num_classes=18, decoder=dict(semantic_classes=20), weights=dict(semantic=0.2),
    network=dict(_delete_=True, type='SparseUNet', dim_in=6, width=32, trim_odd_extents=True, least_extent=128))
train_dataset = _data
val_dataset = _data
test_dataset = _data
metrics = dict(instances=dict(benchmark='scannet20'))
experiment = dict(trained_on='ScanNetv2 training scenes')
profiles = dict(rooms=dict(model=dict(network=dict(_delete_=True, type='SparseUNet', dim_in=6, width=16, levels=4))),
                debug=dict(model=dict(network=dict(_delete_=True, type='SparseUNet', dim_in=6, width=8, levels=3))))
