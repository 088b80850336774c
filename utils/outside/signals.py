"""SIGTERM, which schedulers send before they kill: work ends with a sentence, training at the next step boundary."""

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


class Terminated(KeyboardInterrupt):
    """Signal that SIGTERM asked this process to end."""


class _Listener:
    """Remember SIGTERM while it waits, else end the work where it is."""

    def __init__(self):
        self.asked = self.waits = False
        self.process = 0

    def listen(self) -> None:
        """Hear SIGTERM from now on; children that are forked later die of it, as usual."""
        if threading.current_thread() is threading.main_thread():
            self.asked, self.process = False, os.getpid()
            signal.signal(signal.SIGTERM, self._hear)

    def _hear(self, number: int, frame: Any) -> None:
        if os.getpid() != self.process:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            os.kill(os.getpid(), signal.SIGTERM)
            return
        self.asked = True
        if not self.waits:
            raise Terminated


_listener = _Listener()
listen = _listener.listen


def asked() -> bool:
    """Tell whether SIGTERM has arrived."""
    return _listener.asked


def leave_if_asked() -> None:
    """End the work here where SIGTERM has arrived."""
    if _listener.asked:
        raise Terminated


@contextmanager
def waiting() -> Iterator[None]:
    """Let SIGTERM wait for the block to look at `asked`: an error between any two lines can leave a lock taken."""
    before, _listener.waits = _listener.waits, True
    try:
        yield
    finally:
        _listener.waits = before
