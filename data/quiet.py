"""Silence for the libraries below cv2 and Pillow: C code writes its warnings straight to file descriptor 2."""

import ctypes
import logging
import os
import sys
import threading
import warnings

_CLONE_FILES = 0x400
_thread = threading.local()


def silence_thread() -> bool:
    """Make file descriptor 2 lead nowhere for this thread only, for good; False where the system does not allow it.

    Meant for decoding threads and worker processes. On Linux a thread may leave the process's table of file
    descriptors and go on with a copy of its own, so the rest of the process keeps its stderr.
    """
    if getattr(_thread, "silent", False):
        return True
    if threading.current_thread() is not threading.main_thread() and not _own_descriptors():
        return False
    saved_fd = _redirect()
    if saved_fd is not None:
        os.close(saved_fd)
        _thread.silent = True
    return saved_fd is not None


def silence_worker() -> None:
    """Silence a worker process; what its parent's threads were doing at the fork is forgotten."""
    native_silence.__init__()
    python_silence.__init__()
    silence_thread()


def _own_descriptors() -> bool:
    if not sys.platform.startswith("linux"):
        return False
    try:
        return ctypes.CDLL(None).unshare(_CLONE_FILES) == 0
    except (OSError, AttributeError):
        return False


def _redirect() -> int | None:
    try:
        saved_fd = os.dup(2)
        null_fd = os.open(os.devnull, os.O_WRONLY)
    except OSError:
        return None
    os.dup2(null_fd, 2)
    os.close(null_fd)
    return saved_fd


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


class _NativeSilence(_Shared):
    """Point file descriptor 2 of the process at nothing, unless the thread is silent already."""

    def __enter__(self):
        if not getattr(_thread, "silent", False):
            super().__enter__()

    def __exit__(self, *error):
        if not getattr(_thread, "silent", False):
            super().__exit__(*error)

    def start(self):
        self.saved_fd = _redirect()

    def stop(self):
        if self.saved_fd is not None:
            os.dup2(self.saved_fd, 2)
            os.close(self.saved_fd)


class _PythonSilence(_Shared):
    """Ignore Python warnings and Pillow's log."""

    def start(self):
        self.caught = warnings.catch_warnings()
        self.caught.__enter__()
        warnings.simplefilter("ignore")
        logging.getLogger("PIL").addFilter(_refuse)

    def stop(self):
        logging.getLogger("PIL").removeFilter(_refuse)
        self.caught.__exit__(None, None, None)


def _refuse(record: logging.LogRecord) -> bool:
    return False


native_silence = _NativeSilence()
python_silence = _PythonSilence()
