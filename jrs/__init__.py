"""jrs: joint 3D reconstruction and instance segmentation from unposed RGB images."""

__version__ = '0.1.0'
