"""A device that is not there: what a program would do on it is run on tensors without values, and noted.

`FakeTensorMode` refuses operations that mix devices. `Watch` stands on top of it: it answers what needs values (`item`,
`nonzero`, boolean indices) and notes where that was asked, because there the host waits for the device; it notes each copy
between the two. tests/test_fake_device.py runs everything on a made-up accelerator, `made_up_device`, which needs neither a
compiler nor a card; benchmarks/fake_cuda.py runs full sizes on 'cuda'.
"""

from __future__ import annotations

import os
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.utils import backend_registration
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

ROOT = Path(__file__).resolve().parents[1]
LOOKED_AT = tuple(f'{ROOT / folder}/' for folder in ('jrs', 'plugins', 'tests/examples'))
LARGE = 10 ** 6                                # what an integer is: slices by it take everything
DISTINCT = 9                                   # values that `unique` finds
NUMPY = {getattr(torch, name): getattr(np, name) for name in ('float32', 'float64', 'int64', 'int32', 'int16', 'uint8')} | {
    torch.bool: np.bool_}
MOVING = ('_to_copy', 'copy_')
Place = tuple[str, str]                        # (what, where)


class Watch(TorchDispatchMode):
    """Answers what needs values, and notes who asked.

    Args:
        kind: type of the device that is watched.
        scalar: (tensor, place) -> the Python number that `item` gives for a tensor of that dtype; None = `usual_scalar`.
        found: (elements, place) -> how many of them `nonzero` finds; all by default.

    Attributes:
        syncs: (operation, place) -> how often the host waited for a value of the device.
        copies: ('host to device' or 'device to host', place) -> how often a tensor was copied; with `, not waited for` where
            it was asked to be non-blocking.
        constants: place -> how often Python numbers, or tensors made by `torch.tensor`, were copied to the device.
        operations: how many it has seen; each takes about a fifth of a millisecond, whatever its size.
    """

    def __init__(self, kind: str, scalar: Callable[[Tensor, str], float] | None = None,
                 found: Callable[[int, str], int] = lambda count, place: count) -> None:
        super().__init__()
        self.kind, self.scalar, self.found = kind, scalar or usual_scalar, found
        self.syncs: Counter[Place] = Counter()
        self.copies: Counter[Place] = Counter()
        self.constants: Counter[str] = Counter()
        self.fresh: set[int] = set()           # ids of tensors that hold Python numbers
        self.operations = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        """Run one operation on fake tensors."""
        kwargs = kwargs or {}
        name = function._overloadpacket.__name__
        there = False
        self.operations += 1
        for value in tree_leaves((args, kwargs)):
            if isinstance(value, FakeTensor) and value.constant is not None:
                value.constant = None          # FakeTensorMode would copy a small tensor that it knows, for real
            there = there or isinstance(value, Tensor) and value.device.type == self.kind
        result = self.run(function, name, args, kwargs, there)
        if name in MOVING:
            source, target = (args[1], args[0]) if name == 'copy_' else (args[0], result)
            if {source.device.type, target.device.type} == {'cpu', self.kind}:
                self.note_copy(source, kwargs.get('non_blocking', False) or name == 'copy_' and len(args) > 2 and args[2])
        return result

    def note_copy(self, source: Tensor, asynchronous: bool) -> None:
        """Note that `source` (...) is copied from or to the device."""
        if id(source) in self.fresh:
            self.constants[place()] += 1
            return
        way = 'device to host' if source.device.type == self.kind else 'host to device'
        self.copies[way + (', not waited for' if asynchronous else ''), place()] += 1

    def waits(self, what: str, there: bool) -> None:
        """Note that the host waits for a value, where it is of the device."""
        if there:
            self.syncs[what, place()] += 1

    def run(self, function, name: str, args: tuple, kwargs: dict, there: bool):
        """Return what an operation gives; what needs values gets made-up ones."""
        first = args[0] if args else None
        if name == '_local_scalar_dense':
            self.waits('item', there)
            return self.scalar(first, place())
        if name == 'equal':
            self.waits('equal', there)
            return True
        if name == 'nonzero':
            self.waits('nonzero', there)
            return first.new_zeros((self.found(first.numel(), place()), first.dim()), dtype=torch.int64)
        if name == 'masked_select':
            self.waits('masked_select', there)
            return first.new_zeros(first.numel())
        if name in ('_unique2', 'unique_dim', 'unique_consecutive'):
            self.waits('unique', there)
            count = min(first.numel(), DISTINCT)
            return (first.new_zeros(count), first.new_zeros(first.shape, dtype=torch.int64),
                    first.new_zeros(count, dtype=torch.int64))
        if name == 'bincount':
            self.waits('bincount', there)
            count = kwargs.get('minlength', args[2] if len(args) > 2 else 1) or 1
            return first.new_ones(count, dtype=torch.int64)
        if name == 'repeat_interleave' and len(args) == 1:
            self.waits('repeat_interleave', there)
        if name in ('index', 'index_put', 'index_put_', '_index_put_impl_', '_unsafe_index'):
            args = (first, self.places_of(args[1], there), *args[2:])
        return function(*args, **kwargs)

    def places_of(self, indices: Iterable[Tensor | None], there: bool) -> list[Tensor | None]:
        """Return indices with all places instead of masks."""
        found, masked = [], False
        for index in indices:
            if index is not None and index.dtype in (torch.bool, torch.uint8):
                masked = True
                found += [torch.zeros(max(1, index.numel()), dtype=torch.int64, device=index.device)
                          for _ in range(index.dim())]
            else:
                found.append(index)
            if there and index is not None and index.device.type == 'cpu':
                self.copies['host to device', place()] += 1
        if masked:
            self.waits('boolean index', there)
        return found


def usual_scalar(tensor: Tensor, where: str) -> float:
    """Return what `item` of a tensor () gives: True, 1.0, or an integer by which slices take everything."""
    return True if tensor.dtype == torch.bool else 1.0 if tensor.is_floating_point() else LARGE


def place() -> str:
    """Return the innermost function of jrs or a plugin that is running, 'file:function', without line numbers."""
    frame = sys._getframe(1)
    while frame is not None:
        if frame.f_code.co_filename.startswith(LOOKED_AT):
            return f'{Path(frame.f_code.co_filename).relative_to(ROOT)}:{frame.f_code.co_name}'
        frame = frame.f_back
    return 'backward'                          # autograd's thread has no frames of ours


@contextmanager
def watching(watch: Watch, mode: FakeTensorMode) -> Iterator[Watch]:
    """Run the block on fake tensors, with what FakeTensorMode cannot do by itself."""
    made, new, fresh = torch.tensor, Tensor.new_tensor, watch.fresh
    kept = []                                  # ids stay those of their tensors

    def to_device(value: Tensor, device) -> Tensor:
        kept.append(value)
        fresh.add(id(value))
        return value if device is None or torch.device(device).type == 'cpu' else value.to(device)

    def tensor(data, *args, device=None, **options):
        return to_device(made(data, *args, **options), device)

    def new_tensor(self, data, dtype=None, device=None, **options):
        return to_device(made(data, dtype=dtype or self.dtype, **options), device or self.device)

    def numpy(self, *args, **options):
        if not isinstance(self, FakeTensor):
            return real_numpy(self, *args, **options)
        if self.device.type != 'cpu' or self.requires_grad:
            raise TypeError(f"can't convert a tensor on {self.device} to numpy (requires_grad={self.requires_grad})")
        if not self.is_floating_point():
            return np.zeros(tuple(self.shape), NUMPY[self.dtype])
        return 1 + np.linspace(0, 1, self.numel(), dtype=NUMPY[self.dtype]).reshape(tuple(self.shape))

    def tolist(self):
        watch.waits('tolist', self.device.type == watch.kind)
        value = watch.scalar(self, place())
        return np.full(tuple(self.shape), value).tolist()

    real_numpy, real_array, fake_list = Tensor.numpy, Tensor.__array__, FakeTensor.tolist
    torch.tensor, Tensor.new_tensor = tensor, new_tensor
    Tensor.numpy, FakeTensor.tolist = numpy, tolist
    Tensor.__array__ = lambda self, dtype=None, copy=None: numpy(self) if dtype is None else numpy(self).astype(dtype)
    try:
        with mode, watch:
            yield watch
    finally:
        torch.tensor, Tensor.new_tensor = made, new
        Tensor.numpy, Tensor.__array__, FakeTensor.tolist = real_numpy, real_array, fake_list


def moved(module: nn.Module, device: torch.device) -> nn.Module:
    """Return `module`, which was built on a fake CPU, with all parameters and buffers on `device`; shared ones stay so."""
    known: dict[int, Tensor] = {}

    def there(value: Tensor) -> Tensor:
        if id(value) not in known:
            made = torch.empty(value.shape, dtype=value.dtype, device=device)
            known[id(value)] = nn.Parameter(made, value.requires_grad) if isinstance(value, nn.Parameter) else made
        return known[id(value)]
    for part in module.modules():
        for kept in (part._parameters, part._buffers):
            kept.update({name: there(value) for name, value in kept.items() if value is not None})
        if hasattr(part, '_device'):           # mmengine's preprocessor keeps its own
            part._device = device
    return module


class _Module(backend_registration._DummyBackendModule):
    """What torch asks the module of a device for."""

    def get_amp_supported_dtype(self) -> list[torch.dtype]:
        """Return what autocast may be asked for; this device does not cast."""
        return [torch.bfloat16]

    def is_autocast_enabled(self) -> bool:
        """Return False."""
        return False

    def manual_seed_all(self, seed: int) -> None:
        """Do nothing."""

    def _is_in_bad_fork(self) -> bool:
        return False


def made_up_device(name: str = 'fakegpu') -> torch.device:
    """Return an accelerator of that name that only has fake tensors; once in a process, which has it until its end."""
    backend_registration._setup_privateuseone_for_python_backend(name, backend_module=_Module())
    return torch.device(name, 0)


def leave() -> None:
    """End a process that ran something backwards on a device that is not there; whatever it wrote is written.

    Autograd's thread of that device still lets go of fake tensors, for which it needs Python. An interpreter that closes
    meanwhile ends that thread from outside, and C++ aborts the process ("terminate called without an active exception").
    """
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)
