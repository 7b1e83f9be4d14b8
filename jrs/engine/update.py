"""What one update of the weights is made of, and how the processes that were launched share it.

The config says how many slots of images make an update (`batches.slots`); processes x accumulation must give that number.
A run is therefore the same training on any number of processes that divides it, up to rounding.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from jrs.errors import ConfigError
from jrs.registry import SAMPLERS


@dataclass(frozen=True)
class Update:
    """One update of the weights: the mean gradient of `slots` batches.

    Attributes:
        slots: batches that make it; a process takes one or more of them, one after another.
        max_images: images of a slot at most, None where the sampler has no such limit.
    """

    slots: int
    max_images: int | None

    def __str__(self) -> str:
        size = '' if self.max_images is None else f' of at most {self.max_images} images'
        return f'{self.slots} {"slot" if self.slots == 1 else "slots"}{size}'

    @property
    def possible(self) -> list[int]:
        """The numbers of processes that share it equally, ascending."""
        return [number for number in range(1, self.slots + 1) if self.slots % number == 0]

    def processes_within(self, most: int) -> int:
        """Return the largest possible number of processes that is at most `most`."""
        return max(number for number in self.possible if number <= most)

    def accumulation(self, processes: int, given: int | None = None) -> int:
        """Return how many slots each process takes one after another.

        Args:
            processes: that train together.
            given: what ``train.accumulate`` asks for; None = whatever makes the update whole.

        Raises:
            ConfigError: the processes cannot share the update equally, or `given` makes another one.
        """
        if self.slots % processes:
            raise ConfigError(
                f'{processes} processes cannot share an update of {self} equally: start {_either(self.possible)} (torchrun '
                f'--nproc_per_node N; a process takes several slots one after another, which trains the same). Another '
                f'update is another training: batches.slots={processes} makes one for {processes} processes.')
        if given is not None and given * processes != self.slots:
            raise ConfigError(
                f'train.accumulate={given} with {processes} {_process(processes)} makes updates of {given * processes} '
                f'slots, and this config trains with updates of {self}: leave train.accumulate=None (it is '
                f'{self.slots // processes} here), or train another update with batches.slots={given * processes}.')
        return self.slots // processes

    def shared_by(self, processes: int) -> str:
        """Return the update and how it comes about, in words."""
        return f'update: {self} = {processes} {_process(processes)} x {self.slots // processes} accumulated'


def update_of(cfg: Mapping) -> Update:
    """Return the update that a config trains with; a config that does not say has the defaults of its sampler.

    Configs of runs from before there were slots have one: each of their processes made its own.

    Raises:
        ConfigError: the number of slots is no whole number of at least 1.
    """
    slots = sampler_setting(cfg['batches'], 'slots')
    slots = 1 if slots is None else slots
    if isinstance(slots, bool) or not isinstance(slots, int) or slots < 1:
        raise ConfigError(f'batches.slots must be a whole number of at least 1, got {slots!r}.')
    return Update(slots, sampler_setting(cfg['batches'], 'max_images'))


def sampler_setting(batches: Mapping, name: str) -> Any:
    """Return an argument of the sampler as config or class says; None where the sampler has no such argument."""
    if name in batches:
        return batches[name]
    for part in SAMPLERS.lookup(batches['type'], 'batches').__mro__[:-1]:
        arguments = inspect.signature(part).parameters
        if name in arguments:
            default = arguments[name].default
            return None if default is inspect.Parameter.empty else default
        if all(argument.kind is not argument.VAR_KEYWORD for argument in arguments.values()):
            return None                                                # else the parent takes what `**options` holds
    return None


def split_of(cfg: Mapping, processes: int) -> dict[str, object]:
    """Return what `run.json` says: `update` in words, its `slots`, and the `processes` and `accumulation` that make it."""
    update = update_of(cfg)
    return dict(update=str(update), slots=update.slots, processes=processes, accumulation=update.accumulation(processes))


def _either(numbers: list[int]) -> str:
    *first, last = map(str, numbers)
    return f'{", ".join(first)} or {last} processes' if first else f'{last} process'


def _process(number: int) -> str:
    return 'process' if number == 1 else 'processes'
