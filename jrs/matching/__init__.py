"""Which query answers for which true instance: pairwise costs, and the assignment."""

from jrs.matching import costs, hungarian

__all__ = ['costs', 'hungarian']
