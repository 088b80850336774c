"""The boundary around every reader of a file from outside: any error becomes one sentence, memory has a bound."""

import contextlib
import os
import reprlib
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from utils.errors import DataError, UserError

_SPARE_BYTES = 768 << 20
_TIMES_ITS_SIZE = 16
_PROCESS = Path("/proc/self/statm")
_lock = threading.RLock()


@contextlib.contextmanager
def reading(
    path: str | os.PathLike,
    problem: str = "cannot be read",
    way_out: str = "mend the file or name another",
    error: type[UserError] = DataError,
    bounded: bool = True,
) -> Iterator[None]:
    """Turn whatever the block raises about the file `path` into `error`, one sentence; a UserError names it at least.

    While the block runs, and where it is `bounded`, the process may take 768 MiB and 16 times the file's size more than
    it has, where the system can tell (Linux): a file that asks for more fails like any other damaged one.
    """
    try:
        more = _SPARE_BYTES + _TIMES_ITS_SIZE * _size(path)
        with limited_memory(more) if bounded else contextlib.nullcontext(), about(path):
            yield
    except UserError:
        raise
    except Exception as found:  # a damaged file makes its reader raise nearly any type
        raise error(f"{path}: {problem} ({reason(found)}); {way_out}") from None


@contextlib.contextmanager
def about(path: str | os.PathLike) -> Iterator[None]:
    """Let a UserError of the block name the file."""
    try:
        yield
    except UserError as found:
        if str(path) in str(found):
            raise
        raise type(found)(f"{path}: {found}") from None


@contextlib.contextmanager
def limited_memory(more: int) -> Iterator[None]:
    """Let allocations fail, as MemoryError or what a library makes of it, beyond `more` bytes than are mapped now."""
    try:
        import resource

        mapped = int(_PROCESS.read_text().split()[0]) * resource.getpagesize()
    except (ImportError, OSError):  # no such system
        yield
        return
    with _lock:
        soft, hard = resource.getrlimit(resource.RLIMIT_AS)
        wanted = mapped + more
        if soft != resource.RLIM_INFINITY:
            wanted = min(wanted, soft)
        resource.setrlimit(resource.RLIMIT_AS, (wanted, hard))
        try:
            yield
        finally:
            resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


def reason(error: Exception, limit: int = 120) -> str:
    """Return what an error of somebody else's code says, on one line of at most `limit` characters."""
    if isinstance(error, MemoryError):
        return "needs more memory than such a file can be worth"
    if isinstance(error, RecursionError):
        return "nested too deep"
    try:
        text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        line = " ".join(text[: 100 * limit].split()).rstrip(".:; ")
    except Exception:  # the message may hold what cannot be shown
        line = ""
    return _cut(line, limit) or type(error).__name__


def shown(value: object, limit: int = 80) -> str:
    """Return a value from outside as an error shows it: on one line, at most `limit` characters, whatever it holds."""
    try:
        return _cut(" ".join(_short.repr(value).split()), limit)
    except Exception:  # nested too deep, or a number of too many digits
        return f"a {type(value).__name__} that cannot be shown"


class _Short(reprlib.Repr):
    """Show the beginning of a value, and never walk the rest of it."""

    def __init__(self):
        super().__init__()
        self.maxlevel = 4
        self.maxstring = self.maxother = 200
        self.maxlist = self.maxtuple = self.maxdict = self.maxset = 6

    def repr_str(self, x: str, level: int) -> str:
        return repr(x[: self.maxstring])

    def repr1(self, x: object, level: int) -> str:
        """Show names of either kind alike; keep away from what subclasses and arrays show of themselves."""
        if isinstance(x, bytes):
            return repr(x[: self.maxstring].decode("utf-8", "surrogateescape"))
        if isinstance(x, np.ndarray):
            return repr(x.tolist()) if x.dtype.kind != "O" and x.size <= 12 else f"array of {x.dtype} {x.shape}"
        for kind, show in ((dict, self.repr_dict), (list, self.repr_list), (tuple, self.repr_tuple)):
            if isinstance(x, kind):
                return show(x, level)  # pyright: ignore[reportArgumentType]
        return super().repr1(x, level)


_short = _Short()


def _cut(text: str, limit: int) -> str:
    return text if len(text) <= limit else f"{text[: limit - 3]}..."


def _size(path: str | os.PathLike) -> int:
    try:
        return os.stat(path).st_size
    except (OSError, ValueError):
        return 0
