"""Runner, loop, hooks, checkpoints: importing registers what mmengine looks up."""

from jrs.engine import averaging, checkpoint, console, hooks, loop, pictures, processes, words

__all__ = ['averaging', 'checkpoint', 'console', 'hooks', 'loop', 'pictures', 'processes', 'words']
