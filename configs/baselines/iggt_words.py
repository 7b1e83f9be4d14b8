# Beside Table 2, row IGGT: clusters with names, words as classes. ScanNet200's names, scored by ScanNet++'s. Ours.
_base_ = './iggt.py'
model = dict(                                       # the head reads the mean embedding of a mask
    num_classes=198, class_head=dict(type='TextClassHead', vocabulary='words/clip.yaml', classes='softmax', embedding_dim=8),
    weights=dict(classification=0.5), losses=dict(classification=dict(type='ClassLoss')))
val_dataset = dict(folder='scannetpp', benchmark='scannetpp', every=40)
test_dataset = dict(folder='scannetpp', benchmark='scannetpp', every=40)
metrics = dict(instances=dict(benchmark='scannetpp', class_aware=True), panoptic=None)
parameter_groups = dict(new=dict(parameters=['*_head.*']))
_all = dict(benchmark='rooms')
_rooms = dict(
    model=dict(num_classes=30, class_head=dict(vocabulary='attributes', embedding_dim=8)), val_dataset=_all,
    test_dataset=_all, train_dataset=dict(benchmark='rooms_known', unnamed='masks'), metrics=dict(instances=_all))
profiles = dict(rooms=_rooms, rooms_small=_rooms, debug=_rooms)
