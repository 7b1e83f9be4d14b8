# Beside Table 2, row "Ours", ScanNet++: words as classes, of ScanNet200 and ScanNet++ at once, each by its own names. Ours.
_base_ = './all24_fada.py'
_head = dict(_delete_=True, type='TextClassHead', vocabulary='words/clip.yaml', classes='softmax')
model = dict(num_classes=226, class_head=_head)         # the different names of both
train_dataset = dict(_delete_=True, type='MixedDataset', width=518, weights=dict(scannet=3, scannetpp=1), common=dict(
    type='SceneDataset', mode='train', split='train', transform=dict(type='TrainViews'), view_spacing=(10, 100)),
    sets=dict(scannet=dict(benchmark='scannet200'), scannetpp=dict(benchmark='scannetpp')))
_all = dict(benchmark='rooms')
_two = dict(sets=dict(scannet=dict(benchmark='rooms_known'), scannetpp=_all))
_rooms = dict(model=dict(num_classes=40, class_head=dict(vocabulary='attributes')), val_dataset=_all, test_dataset=_all,
              metrics=dict(instances=_all))
_tiny = dict(transform=None, view_spacing=(1, 3), folder='rooms/tiny')
_small = dict(_tiny, folder='rooms/small')
profiles = dict(rooms=dict(_rooms, train_dataset=dict(_two, common=_tiny)), rooms_small=dict(_rooms, train_dataset=dict(
    _two, common=_small)), debug=dict(_rooms, train_dataset=dict(_two, common=dict(_tiny, folder='rooms/debug'))))
