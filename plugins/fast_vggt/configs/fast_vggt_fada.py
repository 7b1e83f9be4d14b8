# Beside Table 1: SegVGGT with token merging in every global block (FastVGGT); all else, weights too, is its parent's.
_base_ = '../../../configs/segvggt/all24_fada.py'

plugins = ['fast_vggt']
model = dict(backbone=dict(global_attention=dict(type='TokenMerging', ratio=0.9, start=0)))    # backbones.md section 4
