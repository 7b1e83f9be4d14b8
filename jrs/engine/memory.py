"""How much memory a run will need, from a checked model of it, and what to say when it was too much.

The model counts what is alive at the peak of each stage in units of the tokens of all views (T x C) and of one decoded map
(F / 2 x H x W); the factors were fitted to measurements (tests/engine/test_memory.py states how well they hold).
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from jrs.errors import JrsError
from jrs.layers.block import hidden_values

GB = 1e9
LARGE_RUN = 0.5                                # share of the free memory above which a run is announced
RUNTIME = {'cpu': 0.35e9, 'cuda': 0.6e9}       # interpreter, libraries, context of the device
BLOCK_TOKENS = 5                               # float32 token maps alive inside a block: what came in, its norm, a rotation
QUERY_KEY_VALUE = 4                            # and of the backbone's own type: these, and one that is placed
SAVED_BLOCK_TOKENS = 21                        # token maps that the backward pass of one block needs
SAVED_CROSS_TOKENS = 7                         # the same for a cross-attention of the queries
HEADS = ('camera_head', 'depth_head', 'point_head', 'geometry_head', 'feature_head')     # those that say what they need
CPU_WORDS = ('not enough memory', "can't allocate memory")        # of torch's CPU allocator
TRIM_THRESHOLD, MMAP_THRESHOLD, MMAP_MAX = -1, -3, -4              # glibc's names of options of mallopt
LARGE_TENSOR = 2 ** 24                         # bytes from which a freed tensor leaves the process at once
KEPT = 2 ** 26                                 # bytes of smaller ones that may be kept for the next ones
EVERYTHING = 2 ** 31 - 1


class OutOfMemory(JrsError):
    """A run needed more memory than there is."""


@dataclass(frozen=True)
class MemoryEstimate:
    """Bytes that a run needs at its peak.

    Attributes:
        fixed: what does not depend on the views: weights, gradients, optimizer state, one chunk of the dense decoder.
        per_view: what each further view adds.
        views: number of views.
    """

    fixed: float
    per_view: float
    views: int

    @property
    def total(self) -> float:
        """Bytes."""
        return self.fixed + self.per_view * self.views

    def views_within(self, available: float) -> int:
        """Return how many views `available` bytes hold; 0 where not even one fits."""
        return max(0, int((available - self.fixed) // self.per_view))

    def __str__(self) -> str:
        return f'{self.total / GB:.1f} GB for {self.views} views'


def without_estimate(model: nn.Module) -> list[str]:
    """Return which heads of a `SegVGGT` do not say how much memory they need (no `memory` method)."""
    return [f'model.{name}={type(head).__name__}' for name, head in _heads(model) if not hasattr(head, 'memory')]


def inference_memory(model: nn.Module, views: int, size: tuple[int, int], device: torch.device) -> MemoryEstimate | None:
    """Return the estimate of `model.reconstruct` on one scene of `views` images of (H, W) pixels.

    None where a head does not say what it needs (`without_estimate`).

    Args:
        model: a `SegVGGT`, with its weights in the dtype that they will have.
    """
    if without_estimate(model):
        return None
    backbone, tokens, pixels = model.backbone, _token_bytes(model, size), size[0] * size[1]
    taps = tokens * backbone.feature_dim / backbone.embed_dim * len(backbone.feature_layers)
    images, outputs = 12 * pixels, 8 * pixels
    needs = [head.memory(views, size, device) for _, head in _heads(model)]
    maps = max((one.chunk for one in needs), default=0.0)
    features, masks = 4 * _feature_values(model, pixels), 0.0
    if model.queries is not None:
        masks = model.queries.num_queries * _mask_pixels(model, pixels) / 8
    rest = outputs + features + masks + sum(one.outputs for one in needs)
    fixed = parameter_bytes(model) + RUNTIME.get(device.type, 0.0)
    half = 0.5 if model.autocast_dtype is not None else 1.0                    # bytes of a value in the backbone, over 4
    hidden = half * min(4.0 * hidden_values(device), 4 * tokens * views)
    block = (BLOCK_TOKENS + QUERY_KEY_VALUE * half) * tokens
    # Stages of which the largest counts: attention in the backbone, an MLP there, then the dense heads.
    stages = [(0.0, block + taps + images), (hidden, BLOCK_TOKENS * tokens + taps + images), (maps, taps + images + rest)]
    temporary, per_view = max(stages, key=lambda stage: stage[0] + stage[1] * views)
    return MemoryEstimate(fixed + temporary, per_view, views)


def training_memory(model: nn.Module, views: int, size: tuple[int, int], device: torch.device,
                    teacher_bytes: float = 0.0, processes: int = 1, sharded: bool = False) -> MemoryEstimate | None:
    """Return the estimate of training with AdamW and `views` images in a slot (scenes times views); slots take turns.

    Gradients and both moments are float32, of trainable parameters only. None as for `inference_memory`.

    Args:
        teacher_bytes: of the teacher's weights.
        processes: that train together; gradients are then views of DDP's buckets.
        sharded: each process keeps its part of weights, gradients and moments instead; what it gathers for a moment is not
            counted.
    """
    if without_estimate(model):
        return None
    trainable = sum(value.numel() for value in model.parameters() if value.requires_grad)
    backbone, queries = model.backbone, model.queries
    tokens = _token_bytes(model, size)
    share = 0.6 if model.autocast_dtype is not None else 1.0                   # part of a block's tensors is bfloat16
    block = SAVED_BLOCK_TOKENS * tokens * share
    kept = 2 * tokens * backbone.feature_dim / backbone.embed_dim * len(backbone.feature_layers)    # taps, their gradients
    saved, recomputed = _saved_by_backbone(backbone, tokens, block, 0.5 if model.autocast_dtype is not None else 1.0)
    kept += saved
    if hasattr(queries, 'cross_layers') and not getattr(queries, 'activation_checkpointing', False):    # inside the backbone
        kept += SAVED_CROSS_TOKENS * tokens * share * len(queries.cross_layers)
    elif hasattr(queries, 'kept_channels'):        # a decoder after it, in float32
        kept += tokens * queries.kept_channels / backbone.embed_dim
    kept += 2 * 4 * _feature_values(model, size[0] * size[1])                   # instance features and their gradient
    chunk = 0.0
    for _, head in _heads(model):
        needs = head.memory(views, size, device)
        kept += needs.kept
        if needs.recomputed_views is None:
            kept += needs.saved
        else:
            chunk = max(chunk, needs.saved * needs.recomputed_views)
    gradients, own = 4.0 * trainable, parameter_bytes(model) + 8.0 * trainable
    if sharded:
        gradients, own = gradients / processes, own / processes
    elif processes > 1:                            # buckets, which are there from the start
        gradients, own = 0.0, own + gradients
    fixed = own + teacher_bytes + RUNTIME.get(device.type, 0.0)
    # Stages of which the largest counts. What is saved goes as gradients come, so that these count at the end alone.
    stages = [(chunk, kept), (0.0, kept + recomputed), (gradients, 0.0)]
    temporary, per_view = max(stages, key=lambda stage: stage[0] + stage[1] * views)
    return MemoryEstimate(fixed + temporary, per_view, views)


def _saved_by_backbone(backbone: nn.Module, tokens: float, block: float, half: float) -> tuple[float, float]:
    """Return the bytes of one view that the backward pass of a backbone keeps, and those that it computes again at a time.

    `half` is the size of a value in attention over that of float32.

    A backbone that is not made of steps is taken for two blocks per query layer.
    """
    stretches = [len(stretch) for stretch in backbone.stretches()] if hasattr(backbone, 'stretches') else \
        backbone.num_query_layers * [2]
    level = getattr(backbone, 'activation_checkpointing', False)
    if not level:
        return sum(stretches) * block, 0.0
    attention = half * tokens * sum(stretches) if level == 'attention' else 0.0
    return len(stretches) * tokens + attention, max(stretches) * block


def parameter_bytes(model: nn.Module) -> int:
    """Return the bytes of all parameters."""
    return sum(value.numel() * value.element_size() for value in model.parameters())


def free_memory(device: torch.device) -> float | None:
    """Return the bytes that are free on `device`; None where that is not known."""
    if device.type == 'cuda':
        return float(torch.cuda.mem_get_info(device)[0])
    meminfo = Path('/proc/meminfo')
    if device.type != 'cpu' or not meminfo.is_file():
        return None
    fields = dict(line.split(':', 1) for line in meminfo.read_text().splitlines())
    return 1024.0 * int(fields['MemAvailable'].split()[0])


def announce(estimate: MemoryEstimate | None, loaded: float, free: float | None) -> str | None:
    """Return a sentence about a large run, None for one that is small beside the `free` bytes.

    Args:
        estimate: of the whole process; None = there is none.
        loaded: bytes of it that are already taken: the weights.
        free: bytes that are free now.
    """
    if estimate is None or free is None or estimate.total - loaded < LARGE_RUN * free:
        return None
    words = f'about {estimate} are needed, {(free + loaded) / GB:.1f} GB can be had'
    if estimate.total > free + loaded:
        words += f': too much; {estimate.views_within(free + loaded)} views would fit'
    return words


@contextmanager
def naming_views_that_fit(estimate: MemoryEstimate | None, available: float | None,
                          views: int | None = None) -> Iterator[None]:
    """Turn an out-of-memory error of the block into one that names the number of views that would fit.

    Args:
        estimate: of the pass; None = there is none, then `views` says how many views it has.
        available: bytes that can be had; None = not known.
        views: of the pass; None = as the estimate says.

    Raises:
        OutOfMemory: instead of torch's error.
    """
    try:
        yield
    except RuntimeError as error:                  # torch.OutOfMemoryError is one; the CPU allocator raises a bare one
        if not _is_out_of_memory(error):
            raise
        views = estimate.views if views is None else views
        known = estimate is not None and available
        fit = min(estimate.views_within(available), views - 1) if known else views // 2
        advice = (f'about {fit} views would fit' if fit > 0 else 'not even one view of this size fits')
        guess = 'there is no estimate' if estimate is None else f'the estimate was {estimate.total / GB:.1f} GB'
        raise OutOfMemory(f'Out of memory with {views} views ({guess}): '
                          f'{advice}. Use --max-views, --every, a smaller --width, or a device with more '
                          'memory.') from error


def _is_out_of_memory(error: RuntimeError) -> bool:
    return isinstance(error, torch.OutOfMemoryError) or any(words in str(error) for words in CPU_WORDS)


def lean_allocations() -> bool:
    """Make large tensors of the CPU come in huge pages and leave the process when they are freed; False where it cannot.

    Call it before the first tensor is made: torch reads its switch once. glibc alone keeps many freed tensors, and a
    forward pass of VGGT-1B's size in pages of 4 KiB spends a tenth of its time on touching new ones.
    """
    os.environ.setdefault('THP_MEM_ALLOC_ENABLE', '1')
    return _set_allocator({MMAP_THRESHOLD: LARGE_TENSOR, TRIM_THRESHOLD: KEPT})


def kept_allocations() -> bool:
    """Make freed tensors of the CPU stay with the process, for the next ones; False where it cannot.

    For training on a CPU, each step of which takes the same memory again: glibc alone gives large tensors back, and a step
    of the profile `rooms` spends a tenth of its time on touching new pages.
    """
    return _set_allocator({MMAP_MAX: 0, TRIM_THRESHOLD: EVERYTHING})


def _set_allocator(options: Mapping[int, int]) -> bool:
    """Set options of glibc's malloc; False where there is no glibc, or it refuses one."""
    try:
        mallopt = ctypes.CDLL('libc.so.6').mallopt
    except (OSError, AttributeError):
        return False
    return all([bool(mallopt(*option)) for option in options.items()])


def give_back_memory() -> bool:
    """Hand freed memory of the process back to the system, where pieces of it are kept for later; False where it cannot."""
    try:
        return bool(ctypes.CDLL('libc.so.6').malloc_trim(0))
    except (OSError, AttributeError):
        return False


def _token_bytes(model: nn.Module, size: tuple[int, int]) -> float:
    """Bytes of the float32 tokens of one view; special tokens of a backbone that does not say how many are left out."""
    backbone = model.backbone
    patches = (size[0] // backbone.patch_size) * (size[1] // backbone.patch_size)
    return 4.0 * (patches + getattr(backbone, 'num_special', 0)) * backbone.embed_dim


def _mask_pixels(model: nn.Module, pixels: int) -> float:
    """Pixels of a mask in a view of `pixels`."""
    return pixels / getattr(model.feature_head, 'down_ratio', 1) ** 2


def _feature_values(model: nn.Module, pixels: int) -> float:
    """Values of the instance features of a view; 0 where there are none, or a head does not say how many channels."""
    return getattr(model.feature_head, 'embedding_dim', 0) * _mask_pixels(model, pixels)


def _heads(model: nn.Module) -> list[tuple[str, nn.Module]]:
    return [(name, getattr(model, name)) for name in HEADS if getattr(model, name) is not None]
