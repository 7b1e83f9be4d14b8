# Table 7, row 1: frame and global attention frozen, no LoRA; queries and all heads train.
_base_ = './all24_fada.py'

model = dict(backbone=dict(lora=None, freeze=dict(blocks=True)))
profiles = dict(rooms=dict(model=dict(backbone=dict(freeze=dict(patch_embed=True)))))    # the profile trains the encoder
