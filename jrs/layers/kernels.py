"""Which kernels compute attention on CUDA: a list by priority, none that holds all weights unasked, and which ran."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.profiler import ProfilerActivity, profile

from jrs.errors import ConfigError

KERNELS = {'cudnn': SDPBackend.CUDNN_ATTENTION, 'flash': SDPBackend.FLASH_ATTENTION,
           'efficient': SDPBackend.EFFICIENT_ATTENTION, 'math': SDPBackend.MATH}
OPERATION = re.compile(r'aten::_scaled_dot_product_(?:attention_)?(cudnn|flash|efficient|math)(?:_attention)?(?:_for_cpu)?')
NO_KERNEL = 'No available kernel'              # how torch says it

_chosen = ExitStack()                          # of this process


def choose_kernels(names: Sequence[str]) -> None:
    """Let attention of this process use these kernels, the first that can; others never.

    It holds for the whole process, because the backward pass runs attention again where it is recomputed. What none of them
    can do is an error (`naming_kernels`). On a CPU 'flash' and 'math' mean the CPU's own.

    Args:
        names: of `KERNELS`, best first; 'math' holds the weights of all pairs of tokens.
    """
    _chosen.close()
    _chosen.enter_context(sdpa_kernel([KERNELS[name] for name in names], set_priority=True))


def free_choice() -> None:
    """Let torch choose again, as before `choose_kernels`."""
    _chosen.close()


@contextmanager
def naming_kernels() -> Iterator[None]:
    """Turn torch's error about a missing kernel inside the block into one that says what to do.

    Raises:
        ConfigError: no chosen kernel can do what a model asks for.
    """
    try:
        yield
    except RuntimeError as error:
        if NO_KERNEL not in str(error):
            raise
        raise ConfigError('no kernel of device.attention_kernels can do this attention (torch says above why not: dtype, '
                          "width of heads, mask, or card). Allow another: --cfg-options 'device.attention_kernels="
                          '["cudnn", "flash", "efficient", "math"]\'; "math" holds the weights of all pairs of tokens.'
                          ) from error


def kernels_used(run: Callable[[], object]) -> dict[str, int]:
    """Return how often each kernel of attention was called while `run()` ran, by the names of `KERNELS`."""
    with profile(activities=[ProfilerActivity.CPU]) as profiled:               # operations have the kernels' names
        run()
    found: Counter[str] = Counter()
    for event in profiled.key_averages():
        if (match := OPERATION.fullmatch(event.key)) is not None:
            found[match[1]] += event.count
    return dict(found)


def kernel_words(names: Sequence[str]) -> str:
    """Return the kernels in a few words, for records; 'torch chooses' where there is no CUDA."""
    return ' > '.join(names) if torch.cuda.is_available() else 'torch chooses (no CUDA)'
