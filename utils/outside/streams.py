"""Standard streams that somebody closes: messages are lost then, the work is not."""

import contextlib
import os
import sys
from collections.abc import Iterator
from typing import Any

_OUT, _ERRORS = 1, 2


class _Lasting:
    """Write to a stream as long as it can be written to, and nowhere after that."""

    def __init__(self, stream: Any):
        self._stream = stream

    def write(self, text: str) -> int:
        """Write what can be written."""
        with contextlib.suppress(OSError, ValueError):  # ValueError: the stream itself was closed
            self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        """Flush what can be flushed."""
        with contextlib.suppress(OSError, ValueError):
            self._stream.flush()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


@contextlib.contextmanager
def lasting() -> Iterator[None]:
    """Let messages go nowhere, instead of ending the work, once stderr is closed, its reader gone or its disk full.

    A process that was started without stdout or stderr gets the null device, so that no file takes their number.
    """
    before = sys.stdout, sys.stderr
    for number, name in ((_OUT, "stdout"), (_ERRORS, "stderr")):
        if getattr(sys, name) is None:
            setattr(sys, name, open(_nowhere(number), "w", encoding="utf-8", closefd=False))
    sys.stderr = _Lasting(sys.stderr)
    try:
        yield
    finally:
        sys.stdout, sys.stderr = before


def _nowhere(number: int) -> int:
    """Lead a file descriptor that is closed to the null device."""
    try:
        os.fstat(number)
    except OSError:
        null = os.open(os.devnull, os.O_RDWR)
        if null != number:
            os.dup2(null, number)
            os.close(null)
    return number
