# Beside Table 9: Depth Anything 3 Large for inference, its cameras found from its map of rays instead of a token.
_base_ = './da3_large_geometry.py'

model = dict(geometry_head=dict(type='DepthAnything3Rays', poses='rays'))
