# Table 2, row PanSt3R, ScanNet++: the weights of panst3r.py scored there. The released ones saw ScanNet++ in training.
_base_ = './panst3r.py'

val_dataset = dict(folder='scannetpp', benchmark='scannetpp', every=40)
test_dataset = dict(folder='scannetpp', benchmark='scannetpp', every=40)   # ours, as all24_fada_scannetpp_zeroshot.py
metrics = dict(instances=dict(benchmark='scannetpp'), panoptic=dict(benchmark='scannetpp'))
profiles = dict(                                # rooms of another style stand in for another data set
    rooms=dict(test_dataset=dict(folder='rooms/tiny_shifted', benchmark='scannet200'),
               val_dataset=dict(benchmark='scannet200'),
               metrics=dict(instances=dict(benchmark='scannet200'), panoptic=dict(benchmark='scannet200'))),
    debug=dict(test_dataset=dict(folder='rooms/debug_shifted', benchmark='scannet200'),
               val_dataset=dict(benchmark='scannet200'),
               metrics=dict(instances=dict(benchmark='scannet200'), panoptic=dict(benchmark='scannet200'))))
