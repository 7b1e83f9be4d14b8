"""Runner, loop, hooks, checkpoints: importing registers what mmengine looks up."""

from jrs.engine import checkpoint, console, hooks, loop, pictures, processes, words

__all__ = ['checkpoint', 'console', 'hooks', 'loop', 'pictures', 'processes', 'words']
