"""Named training terms, and the criterion that weighs them."""

from jrs.losses import camera, correspondence, criterion, depth, instance, regression, scale

__all__ = ['camera', 'correspondence', 'criterion', 'depth', 'instance', 'regression', 'scale']
