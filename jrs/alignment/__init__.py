"""The paper's contribution in one room: divergences, the view-visibility target, the matching cost and the loss."""

from jrs.alignment import cost, divergence, loss, visibility

__all__ = ['cost', 'divergence', 'loss', 'visibility']
