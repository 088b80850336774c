"""Silence for the libraries below cv2 and Pillow, which print what they think of a file instead of saying it.

The C libraries write to the C variable `stderr`. It is pointed at nothing for the duration of a decoding call; file
descriptor 2 and Python's `sys.stderr` stay as they are, so no other thread loses a message.
"""

import ctypes
import logging
import os
import threading
import warnings
from typing import Any

import cv2

_opencv_log: Any = cv2 if hasattr(cv2, "setLogLevel") else cv2.utils.logging  # OpenCV 4, OpenCV 5


class _Shared:
    """Enter once for all threads that are inside together, leave with the last of them."""

    def __init__(self):
        self.lock = threading.Lock()
        self.inside = 0

    def __enter__(self):
        with self.lock:
            self.inside += 1
            if self.inside == 1:
                self.start()

    def __exit__(self, *_):
        with self.lock:
            self.inside -= 1
            if self.inside == 0:
                self.stop()

    def start(self) -> None:
        raise NotImplementedError

    def stop(self) -> None:
        raise NotImplementedError


class _NativeSilence(_Shared):
    """Lead C's `stderr` nowhere (glibc and macOS) and turn off OpenCV's log."""

    def __init__(self):
        super().__init__()
        self.stream = _c_stderr()

    def start(self) -> None:
        self.level = _opencv_log.setLogLevel(0)
        if self.stream is not None:
            self.kept = self.stream.value
            self.stream.value = _null_stream()

    def stop(self) -> None:
        if self.stream is not None:
            self.stream.value = self.kept
        _opencv_log.setLogLevel(self.level)


class _PythonSilence(_Shared):
    """Ignore the warnings and the log of Pillow."""

    def start(self) -> None:
        self.caught = warnings.catch_warnings()
        self.caught.__enter__()
        warnings.filterwarnings("ignore", module=r"PIL\b|data\.images")
        logging.getLogger("PIL").addFilter(_refuse)

    def stop(self) -> None:
        logging.getLogger("PIL").removeFilter(_refuse)
        self.caught.__exit__(None, None, None)


def _refuse(record: logging.LogRecord) -> bool:
    return False


def _c_stderr() -> ctypes.c_void_p | None:
    if not os.path.exists("/dev/null"):
        return None
    for name in ("stderr", "__stderrp"):
        try:
            return ctypes.c_void_p.in_dll(ctypes.CDLL(None), name)
        except (ValueError, OSError):
            continue
    return None


_null: list[int] = []


def _null_stream() -> int:
    """Open the null device once per process, as a C stream."""
    if not _null:
        fopen = ctypes.CDLL(None).fopen
        fopen.restype = ctypes.c_void_p
        _null.append(fopen(b"/dev/null", b"w"))
    return _null[0]


native_silence = _NativeSilence()
python_silence = _PythonSilence()


def forget_other_threads() -> None:
    """Start anew in a forked worker, where the threads that were inside do not exist."""
    native_silence.__init__()
    python_silence.__init__()
