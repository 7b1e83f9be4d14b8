"""Runner, loop, hooks, checkpoints: importing registers what mmengine looks up."""

from jrs.engine import checkpoint, hooks, loop, pictures

__all__ = ['checkpoint', 'hooks', 'loop', 'pictures']
