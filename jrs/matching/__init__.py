"""Which query answers for which true instance: pairwise costs, and the assignment."""

from jrs.matching import costs, hungarian, sparse

__all__ = ['costs', 'hungarian', 'sparse']
