"""What reading one small file may take: so much more memory and so many seconds, then it is an error."""

from __future__ import annotations

import resource
import signal
from collections.abc import Iterator
from contextlib import contextmanager

MEMORY = 512 << 20                               # bytes of address space over what the process has
SECONDS = 5


@contextmanager
def limited(memory: int = MEMORY, seconds: float = SECONDS) -> Iterator[None]:
    """Let the block take `memory` more bytes and `seconds`: MemoryError and TimeoutError beyond (main thread, Linux)."""
    def stop(*_) -> None:
        raise TimeoutError(f'more than {seconds} s')
    old = resource.getrlimit(resource.RLIMIT_AS)
    with open('/proc/self/statm', encoding='ascii') as file:
        now = int(file.read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (now + memory, old[1]))
    handler = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, handler)
        resource.setrlimit(resource.RLIMIT_AS, old)
