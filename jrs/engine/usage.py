"""What a device, or this process, takes: seconds and memory."""

from __future__ import annotations

import resource
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch

KIB = 1 if sys.platform == 'darwin' else 1024    # bytes of a unit of ru_maxrss


def reset_peak(device: torch.device) -> None:
    """Forget the peak so far; on a CPU where the system allows it."""
    if device.type == 'cuda':
        torch.cuda.reset_peak_memory_stats(device)
    elif Path('/proc/self/clear_refs').exists():
        Path('/proc/self/clear_refs').write_text('5')


def peak_memory_gb(device: torch.device) -> float:
    """Return the peak in GB (1e9 bytes): tensors on CUDA, the resident process elsewhere."""
    if device.type == 'cuda':
        return torch.cuda.max_memory_allocated(device) / 1e9
    return _status_gb('VmHWM')


def memory_gb(device: torch.device) -> float:
    """Return what is in use now, in GB: tensors on CUDA, the resident process elsewhere (its peak, where no system says)."""
    return torch.cuda.memory_allocated(device) / 1e9 if device.type == 'cuda' else _status_gb('VmRSS')


def _status_gb(name: str) -> float:
    status = Path('/proc/self/status')
    if not status.exists():
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * KIB / 1e9
    value = next(line for line in status.read_text().splitlines() if line.startswith(name))
    return int(value.split()[1]) * 1024 / 1e9


def now(device: torch.device, clock: Callable[[], float] = time.perf_counter) -> float:
    """Return seconds after all that was started on `device` is done; `clock` counts on a CPU only."""
    if device.type == 'cpu':
        return clock()
    torch.accelerator.synchronize(device)
    return time.perf_counter()
