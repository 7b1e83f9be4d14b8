"""FastVGGT: tokens that look alike are merged inside the attention over all views, of any backbone made of steps."""

from jrs_plugins.fast_vggt import merging  # noqa: F401
