"""Silence for the libraries below cv2 and Pillow, which print what they think of a file instead of saying it.

The C libraries write to the C variable `stderr`. It is pointed at some memory for the duration of a decoding call, so
that one can ask what they said; file descriptor 2 and Python's `sys.stderr` stay as they are, so no other thread loses
a message.
"""

import ctypes
import logging
import os
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, NamedTuple

import cv2

_opencv_log: Any = cv2 if hasattr(cv2, "setLogLevel") else cv2.utils.logging  # OpenCV 4, OpenCV 5


class _Shared:
    """Enter once for all threads that are inside together, leave with the last of them; no thread enters twice."""

    def __init__(self):
        self.changed = threading.Condition(threading.Lock())
        self.inside = self.waiting = 0

    def __enter__(self):
        with self.changed:
            if self.waiting:
                self.changed.wait_for(lambda: not self.waiting)
            self.inside += 1
            if self.inside == 1:
                self.start()

    def __exit__(self, *_):
        with self.changed:
            self.inside -= 1
            if self.inside == 0:
                self.stop()
                if self.waiting:
                    self.changed.notify_all()

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Wait until all threads have left, and keep them out."""
        with self.changed:
            self.waiting += 1
            try:
                self.changed.wait_for(lambda: not self.inside)
            finally:
                self.waiting -= 1
                self.changed.notify_all()
            self.start()
            try:
                yield
            finally:
                self.stop()

    def start(self) -> None:
        raise NotImplementedError

    def stop(self) -> None:
        raise NotImplementedError


class _NativeSilence(_Shared):
    """Lead C's `stderr` into memory (glibc and macOS), elsewhere nowhere, and turn off OpenCV's log."""

    def __init__(self):
        super().__init__()
        self.stream = _c_stderr()
        self.memory = None if self.stream is None else _open_memory()

    @property
    def hears(self) -> bool:
        """Tell whether what libraries print can be asked for."""
        return self.memory is not None

    def heard(self) -> str:
        """Return what libraries have printed since the first of the threads inside entered."""
        if self.memory is None or self.memory.text[0] == b"\0":
            return ""
        return self.memory.text.value.decode(errors="replace")

    def start(self) -> None:
        self.level = _opencv_log.setLogLevel(0)
        if self.stream is None:
            return
        if self.memory is not None and self.heard():
            self.memory.text[0] = b"\0"
            self.memory.rewind()
        self.kept = self.stream.value
        self.stream.value = _null_stream() if self.memory is None else self.memory.stream

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


class _Memory(NamedTuple):
    """A C stream that writes to memory."""

    text: Any
    """Array of char, ended by a zero byte."""
    stream: int
    rewind: Callable[[], None]


def _open_memory(size: int = 4096) -> _Memory | None:
    """Open a stream without a buffer of its own; None where the C library knows of none."""
    library = ctypes.CDLL(None)
    try:
        fmemopen, setvbuf, rewind = library.fmemopen, library.setvbuf, library.rewind
    except AttributeError:
        return None
    fmemopen.restype, fmemopen.argtypes = ctypes.c_void_p, [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_char_p]
    setvbuf.argtypes, rewind.argtypes = (
        [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int, ctypes.c_size_t],
        [ctypes.c_void_p],
    )
    text = ctypes.create_string_buffer(size)
    stream = fmemopen(text, size, b"w")
    if not stream or setvbuf(stream, None, _UNBUFFERED, 0):
        return None
    return _Memory(text, stream, partial(rewind, stream))


_UNBUFFERED = 2
"""_IONBF of glibc, musl and macOS."""
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
