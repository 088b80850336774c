"""Files and folders that are whole or absent, whatever other processes do in the same place; fingerprints."""

import contextlib
import hashlib
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import numpy as np

from utils.errors import ConfigError, DataError

_TEMPORARY = re.compile(r"\..+\.[a-z0-9_]{8}\.tmp")


@contextmanager
def writing(path: str | Path) -> Iterator[None]:
    """Let an OSError of the block name `path`; torch.save hides it behind a RuntimeError."""
    try:
        yield
    except (OSError, RuntimeError) as error:
        found = error if isinstance(error, OSError) else error.__context__
        if not isinstance(found, OSError):
            raise
        found.filename = found.filename or str(path)
        raise found from None


@contextmanager
def atomic_write(path: str | Path, mode: str = "wb", **options) -> Iterator[IO]:
    """Open a temporary file beside `path` and rename it onto `path` when the block ends without an error.

    A crash, a full disk or a kill leaves the old file (or none), never half a new one.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    if "b" not in mode:
        options = {"encoding": "utf-8", "newline": "", **options}
    with claimed(lambda: _new_beside(path)) as temporary:
        try:
            with writing(path):
                with open(temporary, mode, **options) as stream:
                    yield stream
                    stream.flush()
                    os.fsync(stream.fileno())
                os.chmod(temporary, 0o666 & ~_umask())
                os.replace(temporary, path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise


def _new_beside(path: Path) -> Path:
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp")
    os.close(descriptor)
    return Path(temporary)


@contextmanager
def replacing(target: Path) -> Iterator[Path]:
    """Yield a place for a new file or folder, which takes the name of `target` when the block ends without an error.

    So the target is whole, or what it was before; a kill between two renames leaves none. What else is put beside the
    place goes at the end. Raises DataError where the disk does not take it, or another process is at it.
    """
    try:
        lock = FolderLock(target.with_name(f".{target.name}.partial"), target)
        try:
            lock.clear()  # what a killed process left
            yield lock.folder / "new"
            with contextlib.suppress(FileNotFoundError):
                os.replace(target, lock.folder / "old")  # one that is removed in place can be half removed
            os.replace(lock.folder / "new", target)
        finally:
            lock.remove_folder()
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise DataError(f"{target}: cannot be written ({reason}); free space or name another base.save_path") from error


class FolderLock:
    """Keep other processes out of a folder while this one writes there; only where the system has POSIX locks."""

    def __init__(self, folder: Path, place: Path):
        """Make the folder and lock it until `close`, or the end of this process; forked ones do not keep the lock.

        Raises DataError, which names `place`, where another process has it.
        """
        self.folder, self._path = folder, folder / ".lock"
        self._stream = self._opened()
        while self._try_lock(place) and not self._is_there():  # the process that had it has just removed it
            self._stream.close()
            self._stream = self._opened()

    def clear(self) -> None:
        """Remove what else is in the folder."""
        for path in self.folder.iterdir():
            if path != self._path:
                _remove(path)

    def remove_folder(self) -> None:
        """Remove the folder, the lock last: whoever comes in between finds another process there, or nothing."""
        with contextlib.suppress(OSError):
            self.clear()
        self.close()
        with contextlib.suppress(OSError):
            self.folder.rmdir()

    def close(self) -> None:
        """Let others in."""
        if not self._stream.closed:
            with contextlib.suppress(OSError):
                if self._is_there():
                    self._path.unlink()
            self._stream.close()

    def _opened(self) -> IO[bytes]:
        while True:
            self.folder.mkdir(parents=True, exist_ok=True)
            with contextlib.suppress(FileNotFoundError):  # the folder has just been removed
                return open(self._path, "ab")

    def _try_lock(self, place: Path) -> bool:
        """Lock the file and return True; False where the system has no such locks."""
        try:
            import fcntl

            fcntl.lockf(self._stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (ImportError, OSError) as error:
            if isinstance(error, BlockingIOError | PermissionError):
                self._stream.close()
                raise DataError(f"{place}: another run writes there; wait, or change base.save_path") from error
            return False
        return True

    def _is_there(self) -> bool:
        try:
            return os.path.samestat(os.fstat(self._stream.fileno()), os.stat(self._path))
        except FileNotFoundError:
            return False


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


@contextmanager
def claimed(make: Callable[[], Path]) -> Iterator[Path]:
    """Yield the new file or folder that `make` returns; `remove_abandoned` leaves it alone while the block runs."""
    while True:
        path = make()
        claim = _lock(path, wait=True)
        if path.exists():
            break
        _unlock(claim)  # another process took it for abandoned before it was locked
    try:
        yield path
    finally:
        _unlock(claim)


def remove_abandoned(folder: Path, pattern: re.Pattern[str] = _TEMPORARY) -> None:
    """Remove files and folders that killed processes left half written: names that match `pattern` in full."""
    with contextlib.suppress(OSError):
        for entry in list(os.scandir(folder)):
            if not pattern.fullmatch(entry.name) or entry.is_symlink():
                continue
            claim = _lock(Path(entry.path), wait=False)
            if claim is not None:
                with contextlib.suppress(OSError):
                    _remove(Path(entry.path))
                _unlock(claim)


def _lock(path: Path, wait: bool) -> int | None:
    """Return a descriptor that holds the lock of a file or folder; None where it is not to be had."""
    try:
        import fcntl

        descriptor = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR)
    except (ImportError, OSError):
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except OSError:
        os.close(descriptor)
        return None
    return descriptor


def _unlock(claim: int | None) -> None:
    if claim is not None:
        os.close(claim)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def allocate(stream: IO[bytes], size: int) -> None:
    """Give a file to be mapped its size, on disk where the system can: one with holes kills when the disk is full."""
    stream.truncate(size)
    if hasattr(os, "posix_fallocate"):
        os.posix_fallocate(stream.fileno(), 0, size)


def sha256_file(path: str | Path) -> str:
    """Return the SHA-256 of a file as 64 hexadecimal digits."""
    digest, buffer = hashlib.sha256(), memoryview(bytearray(1 << 18))  # stays in the processor's cache
    with open(path, "rb", buffering=0) as stream:
        while count := stream.readinto(buffer):
            digest.update(buffer[:count])
    return digest.hexdigest()


def sha256_arrays(*arrays: np.ndarray | None) -> str:
    """Return the SHA-256 of the arrays' bytes in this order; None counts as nothing."""
    digest = hashlib.sha256()
    for array in arrays:
        if array is not None:
            digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()


def make_folder(path: str | Path, key: str) -> Path:
    """Create an output folder and try to write there; `key` is the configuration key an error names.

    Temporary files of processes that were killed are removed.
    """
    path, task = Path(path), "create"
    try:
        path.mkdir(parents=True, exist_ok=True)
        task = "write to"
        tempfile.TemporaryFile(dir=path).close()
        remove_abandoned(path)
    except OSError as error:
        raise ConfigError(f"{key}: cannot {task} the folder {path} ({error.strerror}); name another one") from error
    return path
