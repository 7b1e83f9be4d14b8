"""Writing safetensors files tensor by tensor, so that no second copy of them is held."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from jrs.errors import WeightsError
from jrs.io.atomic import atomic_write

ALIGNMENT = 64                                 # bytes; the data begin at a multiple of it, as kernels like it
DTYPE_NAMES = {torch.float64: 'F64', torch.float32: 'F32', torch.float16: 'F16', torch.bfloat16: 'BF16', torch.int64: 'I64',
               torch.int32: 'I32', torch.int16: 'I16', torch.int8: 'I8', torch.uint8: 'U8', torch.bool: 'BOOL'}


def write_tensors(path: str | os.PathLike, tensors: Mapping[str, Tensor], metadata: Mapping[str, str],
                  finish: Callable[[str, Tensor], Tensor] = lambda name, tensor: tensor) -> None:
    """Write `tensors` as safetensors: the file appears whole or not at all.

    Args:
        path: the file to write.
        tensors: name -> tensor of any shape, (C,) and () too, on any device, or on meta where `finish` gives the values;
            wide types come first.
        metadata: text for the file's header.
        finish: called with name and tensor when its turn comes; returns what is written, of the same shape and dtype.

    Raises:
        WeightsError: a dtype that the format does not have, or the disk is full.
    """
    ordered = dict(sorted(tensors.items(), key=lambda item: (-item[1].element_size(), item[0])))
    try:
        with atomic_write(path) as file:
            file.write(_header(ordered, metadata))
            for name, tensor in ordered.items():
                value = finish(name, tensor).detach().cpu().contiguous()
                if (value.shape, value.dtype) != (tensor.shape, tensor.dtype):
                    raise ValueError(f'{name} was announced as {tuple(tensor.shape)} {tensor.dtype}, and is '
                                     f'{tuple(value.shape)} {value.dtype}')
                file.write(value.reshape(-1).view(torch.uint8).numpy().data)
    except OSError as error:
        raise WeightsError(f'{path} cannot be written ({error}). Is the disk full?') from error


def _header(tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> bytes:
    entries, end = {'__metadata__': {'format': 'pt', **metadata}}, 0
    for name, tensor in tensors.items():
        if tensor.dtype not in DTYPE_NAMES:
            raise WeightsError(f'{name} is of type {tensor.dtype}, which safetensors does not have.')
        start, end = end, end + tensor.numel() * tensor.element_size()
        entries[name] = dict(dtype=DTYPE_NAMES[tensor.dtype], shape=list(tensor.shape), data_offsets=[start, end])
    text = json.dumps(entries, separators=(',', ':')).encode()
    text += b' ' * (-(8 + len(text)) % ALIGNMENT)
    return len(text).to_bytes(8, 'little') + text
