"""Depth Anything 3: a vision transformer over all views, with its own head for cameras, depth and rays."""

from __future__ import annotations

import re

from jrs_plugins.depth_anything_3 import backbone, geometry  # noqa: F401

from jrs.plugins import hook

ROOTS = ('model.da3.', 'da3.', 'model.', '')   # nested models hold the any-view one beside a metric one
MARK = 'backbone.pretrained.camera_token'
# A released key behind its root, and our name; the first that fits decides. None: known, and not built here.
NAMES = ((r'backbone\.pretrained\.(.*)', r'backbone.\1'),
         (r'head\.scratch\.output_conv([12])_aux\.3\.(.*)', r'geometry_head.head.scratch.output_conv\1_aux.\2'),
         (r'head\.scratch\.output_conv[12]_aux\.[0-2]\..*', None),              # without effect on any output
         (r'((head|cam_dec)\..*)', r'geometry_head.\1'),
         (r'(cam_enc|gs_head|gs_adapter)\..*', None))                           # given cameras; Gaussians


@hook
def jrs_weight_names(keys: list[str]) -> dict[str, str | None] | None:
    """Return our names of the keys of a released Depth Anything 3 (backbones.md section 6.1)."""
    root = next((root for root in ROOTS if f'{root}{MARK}' in keys), None)
    return None if root is None else {key: our_name(key, root) for key in keys}


def our_name(key: str, root: str) -> str | None:
    """Return our name of a released key; None for what is known and not built here."""
    if not key.startswith(root):
        return None if key.startswith(root.replace('da3.', 'da3_metric.')) else key
    own = key.removeprefix(root)
    for pattern, name in NAMES:
        found = re.fullmatch(pattern, own)
        if found:
            return None if name is None else found.expand(name)
    return key
