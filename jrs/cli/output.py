"""Output that nobody takes: a reader that leaves early, as in `jrs print_config FILE | head -1`, or a disk that is full."""

from __future__ import annotations

import logging
import os
import select
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

READER_LEFT = 128 + signal.SIGPIPE              # what a shell says of a program that this signal ends
NOT_WRITTEN = 2


class _NotWritten(Exception):
    """What a command has printed cannot be written; says why."""


def while_read(work: Callable[[], int]) -> int:
    """Return what `work` returns, once all that it printed is out.

    Where the reader of the output has left, the work ends at its next line, in silence, with `READER_LEFT`. The signal by
    which a system ends other programs then is not used: it would end this one, too, where a process of its own is lost.
    """
    try:
        with _heard_by_loggers():
            try:
                return work()
            finally:                                                    # also where argparse leaves after its help
                _flush()
    except BrokenPipeError:
        if not _reader_has_left():
            raise
        _discard()
        return READER_LEFT
    except _NotWritten as error:
        _discard()
        with suppress(OSError):
            print(f'The output cannot be written: {error}.', file=sys.stderr)
        return NOT_WRITTEN


@contextmanager
def _heard_by_loggers() -> Iterator[None]:
    """Let a logger end the work as a printed line does; by itself it would print a traceback for each line, and go on."""
    before = logging.Handler.handleError

    def handle(handler: logging.Handler, record: logging.LogRecord) -> None:
        if isinstance(sys.exc_info()[1], BrokenPipeError):
            raise
        before(handler, record)
    logging.Handler.handleError = handle
    try:
        yield
    finally:
        logging.Handler.handleError = before


def _streams() -> Iterator[tuple[int, object]]:
    for stream in (sys.stdout, sys.stderr):
        with suppress(AttributeError, OSError, ValueError):             # None, or no file of the system
            yield stream.fileno(), stream


def _flush() -> None:
    for _, stream in _streams():
        try:
            stream.flush()
        except BrokenPipeError:
            raise
        except OSError as error:
            raise _NotWritten(error.strerror) from error


def _reader_has_left() -> bool:
    """Return whether the other end of the output is closed, so that a broken pipe is not one of ours."""
    for number, _ in _streams():
        poll = select.poll()
        poll.register(number, select.POLLOUT)
        if any(event & (select.POLLERR | select.POLLHUP) for _, event in poll.poll(0)):
            return True
    return False


def _discard() -> None:
    """Lead what is still in buffers, and printed by the end of the process, to nowhere."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for number, stream in _streams():
        try:
            stream.flush()
        except OSError:
            os.dup2(nowhere, number)
    os.close(nowhere)
