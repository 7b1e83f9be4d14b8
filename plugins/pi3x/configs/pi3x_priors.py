# Beside Table 9: Pi3X as released, conditioning modules included, for `tools/infer.py --cameras` and `--depth`.
_base_ = 'pi3x_geometry.py'

model = dict(backbone=dict(inject_after=(1, 9, 17, 25, 33)))                    # backbones.md section 1
profiles = dict(debug=dict(model=dict(backbone=dict(inject_after=(1, 5)))),
                rooms=dict(model=dict(backbone=dict(inject_after=(1, 9)))),
                rooms_small=dict(model=dict(backbone=dict(inject_after=(1, 9)))))
