# Beside Table 2, row "Ours", ScanNet++: words as classes. Trained on ScanNet200's names, scored by ScanNet++'s, class-aware.
# words/clip.yaml: tools/vocabulary.py words/clip.yaml --encoder FOLDER --names scannet200 scannetpp. All of it is ours.
_base_ = './all24_fada.py'

model = dict(class_head=dict(_delete_=True, type='TextClassHead', vocabulary='words/clip.yaml', classes='softmax'))
val_dataset = dict(folder='scannetpp', benchmark='scannetpp', every=40)
test_dataset = dict(folder='scannetpp', benchmark='scannetpp', every=40)
metrics = dict(instances=dict(benchmark='scannetpp'))
_all = dict(benchmark='rooms')      # a quarter of these names is held out: masks of such objects are learned, no name
_rooms = dict(
    model=dict(num_classes=30, class_head=dict(vocabulary='attributes')), val_dataset=_all, test_dataset=_all,
    train_dataset=dict(benchmark='rooms_known', unnamed='masks'), metrics=dict(instances=_all))
profiles = dict(rooms=_rooms, rooms_small=_rooms, debug=_rooms)
