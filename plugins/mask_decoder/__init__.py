"""A decoder of its own after the backbone, with masked attention: the decoupled baseline of Table 8."""

from jrs_plugins.mask_decoder import decoder  # noqa: F401
