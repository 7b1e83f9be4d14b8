"""What a run does with an accelerator, said once in the config (`device`) and applied here by all commands.

Nothing of it is part of a run's identity but a precision other than the usual one: numbers stay the same, up to rounding.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from jrs.layers.block import Block
from jrs.layers.cross_attention import CrossBlock
from jrs.layers.dpt import ResidualConvUnit
from jrs.layers.kernels import choose_kernels, kernel_words
from jrs.schema import device_settings

COMPILED = (Block, CrossBlock, ResidualConvUnit)
KINDS_OF_CALLS = 128                            # of one forward: widths, rotation or none, gradients or none, precisions


def prepare_device(cfg: Mapping[str, Any], model: nn.Module) -> None:
    """Make this process, and `model` in it, compute as `cfg['device']` says.

    float32 convolutions and matrix products get their precision, attention its kernels (where there is CUDA), and the blocks
    of the model are compiled where that is asked for.
    """
    settings = device_settings(cfg)
    use_precision(**settings['precision'])
    if torch.cuda.is_available():
        choose_kernels(settings['attention_kernels'])
    if settings['compile']:
        compile_blocks(model)


def device_record(cfg: Mapping[str, Any]) -> dict[str, Any]:
    """Return how a run computes as `cfg['device']` says, for its record."""
    settings = device_settings(cfg)
    return dict(precision=dict(settings['precision']), attention_kernels=kernel_words(settings['attention_kernels']),
                compile=settings['compile'])


def use_precision(convolution: str = 'tf32', matmul: str = 'ieee') -> None:
    """Set how float32 convolutions and matrix products compute on CUDA.

    Args:
        convolution: 'ieee', or 'tf32': inputs are rounded to a mantissa of 10 bits, about 1e-3 relative, sums are float32.
        matmul: the same of matrix products, those of attention's mathematical form among them.
    """
    torch.backends.cudnn.conv.fp32_precision = convolution
    torch.backends.cuda.matmul.fp32_precision = matmul


def compile_blocks(model: nn.Module, backend: str = 'inductor') -> int:
    """Compile the blocks of `model` one by one, those of its teacher when it is built; return how many there are.

    The parts between them stay as they are: a generator of layers that queries read cannot be compiled, and is not slow.
    What is compiled is `forward`, below hooks: sharding gathers weights in these. Names of parameters stay.

    Args:
        model: with blocks in it (`COMPILED`).
        backend: of ``torch.compile``.
    """
    dynamo = torch._dynamo.config                               # torch takes 8 kinds by default, and fails at the ninth: a
    dynamo.recompile_limit = max(dynamo.recompile_limit, KINDS_OF_CALLS)                # model with a teacher has 9 of Block
    found = [module for module in model.modules() if isinstance(module, COMPILED)]
    for module in found:
        module.forward = torch.compile(module.forward, backend=backend, fullgraph=True, dynamic=True)
    if hasattr(getattr(model, 'teacher', None), 'when_built'):
        model.teacher.when_built = lambda teacher: compile_blocks(teacher, backend)
    return len(found)
