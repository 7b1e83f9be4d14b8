"""Random numbers of a part alone: what it starts from does not depend on which other parts there are."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import TypeVar

import torch

T = TypeVar('T')


@contextmanager
def own_draws(name: str) -> Iterator[None]:
    """In the block torch's random numbers (on the CPU) are those of `name` and of the seed that holds around the block.

    After it they go on as if nothing had been drawn. Blocks may stand in each other. Every part that a registry builds is
    made in a block of its config path, and layers that a config can leave out in one of their number: with the same
    `torch.manual_seed` two rows of a table start alike in all that both have, and differ by what they compare.
    """
    generator = torch.default_generator
    state, seed = generator.get_state(), generator.initial_seed()
    generator.manual_seed(int.from_bytes(hashlib.sha256(f'{seed} {name}'.encode()).digest()[:8], 'little'))
    try:
        yield
    finally:
        generator.set_state(state)


def made_alone(name: str, numbers: Iterable[int], make: Callable[[], T]) -> dict[str, T]:
    """Return each of `numbers` -> what `make` makes, in a block of its own: a layer starts alike with any others."""
    made = {}
    for number in numbers:
        with own_draws(f'{name}.{number}'):
            made[str(number)] = make()
    return made
