"""Files that are either whole or absent, and their fingerprints."""

import contextlib
import hashlib
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
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
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp")
    mark_in_use(descriptor)
    try:
        if "b" not in mode:
            options = {"encoding": "utf-8", "newline": "", **options}
        with writing(path), os.fdopen(descriptor, mode, **options) as stream:
            yield stream
            stream.flush()
            os.fsync(stream.fileno())
            os.chmod(temporary, 0o666 & ~_umask())
            os.replace(temporary, path)  # before it is closed: until then no other process takes it for abandoned
    except BaseException:
        if os.path.exists(temporary):
            os.unlink(temporary)
        raise


@contextmanager
def replacing(target: Path) -> Iterator[Path]:
    """Yield a place for a new file or folder, which takes the name of `target` when the block ends without an error.

    So the target is whole, or what it was before. Raises DataError where the disk does not take it.
    """
    partial = target.with_name(f".{target.name}.partial")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        _remove(partial)
        yield partial
        _remove(target)
        os.replace(partial, target)
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise DataError(f"{target}: cannot be written ({reason}); free space or name another base.save_path") from error
    finally:
        with contextlib.suppress(OSError):
            _remove(partial)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def mark_in_use(descriptor: int) -> None:
    """Keep `remove_abandoned` of other processes away from an open file or folder, until it is closed or this ends."""
    with contextlib.suppress(ImportError, OSError):
        import fcntl

        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)


def remove_abandoned(folder: Path, pattern: re.Pattern[str] = _TEMPORARY) -> None:
    """Remove what processes that were killed left half written in a folder: names that match `pattern` in full."""
    with contextlib.suppress(OSError):
        for entry in list(os.scandir(folder)):
            if pattern.fullmatch(entry.name) and (is_file := entry.is_file(follow_symlinks=False)) | entry.is_dir():
                with contextlib.suppress(ImportError, OSError):
                    _remove_unless_in_use(entry.path, is_file)


def _remove_unless_in_use(path: str, is_file: bool) -> None:
    import fcntl

    descriptor = os.open(path, os.O_RDWR if is_file else os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.unlink(path) if is_file else shutil.rmtree(path)
    finally:
        os.close(descriptor)


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
