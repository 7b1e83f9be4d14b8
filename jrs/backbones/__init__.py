from jrs.backbones import vggt  # noqa: F401
