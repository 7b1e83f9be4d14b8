# Table 1, SGIFormer-L on ScanNetv2: a sparse U-Net of seven levels in place of Res16UNet34C, positions beside colours.
_base_ = './sgiformer_l.py'

_data = dict(features=('color', 'position'), color_scale='signed', centred=True, voxel_origin='scene', benchmark='scannet20')
_turned = dict(turn=1.0995574287564276, **_data)     # by 0.35 pi, as in the published evaluation
model = dict(num_classes=18, postprocessor=dict(top_pairs=200), network=dict(
    _delete_=True, type='SparseUNet', dim_in=6, width=32, levels=7, trim_odd_extents=True, least_extent=128))
train_dataset = _data
val_dataset = _turned
test_dataset = _turned
metrics = dict(instances=dict(benchmark='scannet20'))
train = dict(iterations=30025)                      # 300 epochs of 1201 scenes, twelve at a time
experiment = dict(trained_on='ScanNetv2 training scenes')
profiles = dict(rooms=dict(model=dict(network=dict(_delete_=True, type='SparseUNet', dim_in=6, width=16, levels=4))),
                debug=dict(model=dict(network=dict(_delete_=True, type='SparseUNet', dim_in=6, width=8, levels=3))))
