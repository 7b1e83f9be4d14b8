# Table 2, row "Ours", ScanNet++: zero-shot. The weights of all24_fada.py (ScanNet200), tested class-agnostically on the 84
# instance classes of ScanNet++ as one. Training it would be training all24_fada.py: only what is scored differs.
_base_ = './all24_fada.py'

val_dataset = dict(folder='scannetpp', benchmark='scannetpp', every=40)
test_dataset = dict(folder='scannetpp', benchmark='scannetpp', every=40)   # ours: 1.5 views/s; the paper: "denser"
metrics = dict(instances=dict(benchmark='scannetpp', class_aware=False))
_rooms = dict(val_dataset=dict(benchmark='scannet200'), metrics=dict(instances=dict(benchmark='scannet200')))
profiles = dict(                                # rooms of another style stand in for another data set
    rooms=dict(test_dataset=dict(folder='rooms/tiny_shifted', benchmark='scannet200'), **_rooms),
    debug=dict(test_dataset=dict(folder='rooms/debug_shifted', benchmark='scannet200'), **_rooms))
