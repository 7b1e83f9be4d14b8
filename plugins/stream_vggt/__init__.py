"""StreamVGGT: views see earlier ones only, so that they may come one at a time; for any backbone made of steps."""

from jrs_plugins.stream_vggt import backbone, causal  # noqa: F401
