"""A small batch through a part of any slot: what `tools/plugins.py check` says, and the first test of a new plugin.

`trial(part)` builds a registered class and yields what it does that its contract does not allow.
"""

from jrs.trials.trial import faults_of, is_tried

__all__ = ['faults_of', 'is_tried']
