# Table 6, row PanSt3R (no QUBO): the same network, masks merged by score in place of the selection.
_base_ = './panst3r.py'

model = dict(postprocessor=dict(                    # [M] version 1; version 2: 0.25, 0.5, 2
    _delete_=True, type='MergedMasks', mask_threshold=0.5, overlap_threshold=0.8, rounds=1, min_class=0.1))
