"""Named training terms, and the criterion that weighs them."""

from jrs.losses import camera, criterion, depth, instance, regression

__all__ = ['camera', 'criterion', 'depth', 'instance', 'regression']
