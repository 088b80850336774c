"""A finished index on disk: arrays that every process maps, found again by what they were made from."""

import hashlib
import json
import logging
import os
import shutil
import tempfile
import time
import zlib
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from utils.files import sha256_file

_SMALL_BYTES = 16 << 20
_TICK_NS = 2_000_000_000
_BLOCK = 1 << 24
_log = logging.getLogger(__name__)


class Entry(NamedTuple):
    """Arrays by name, mapped read-only, and the facts stored with them."""

    folder: str
    arrays: dict[str, np.ndarray]
    facts: dict[str, Any]


def fingerprint(path: str | os.PathLike) -> dict[str, Any]:
    """Describe a file by path, size and content, or modification time when it is large."""
    status = os.stat(path)
    print_of = {"path": os.path.abspath(path), "bytes": status.st_size}
    if status.st_size <= _SMALL_BYTES:
        return {**print_of, "sha256": sha256_file(path)}
    return {**print_of, "mtime_ns": status.st_mtime_ns}


def settled(path: str | os.PathLike) -> bool:
    """Tell whether any later change of the file must show in its fingerprint."""
    status = os.stat(path)
    return status.st_size <= _SMALL_BYTES or status.st_mtime_ns + _TICK_NS < time.time_ns()


def entry_folder(cache: str | os.PathLike, inputs: dict[str, Any]) -> Path:
    """Return where an index made from these inputs is kept."""
    text = json.dumps(inputs, sort_keys=True, ensure_ascii=True)
    return Path(cache) / f"index-{hashlib.sha256(text.encode()).hexdigest()[:32]}"


def open_entry(folder: str | os.PathLike, check: bool = True) -> Entry | None:
    """Map an entry; None when there is none or, with `check`, when a byte of it changed."""
    folder = Path(folder)
    try:
        facts = json.loads((folder / "facts.json").read_text(encoding="utf-8"))
        arrays = {name: _map(folder / f"{name}.npy") for name in facts["checksums"]}
        if check and any(_checksum(arrays[name]) != wanted for name, wanted in facts["checksums"].items()):
            raise ValueError("a checksum differs")
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError, EOFError) as error:
        _log.warning("%s: the stored index is damaged (%s) and is built anew", folder, error)
        return None
    return Entry(str(folder), arrays, facts)


def store_entry(folder: Path, arrays: dict[str, np.ndarray], facts: dict[str, Any]) -> Entry | None:
    """Write an entry and map it; None, with a warning, where that is impossible."""
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}."))
    except OSError as error:
        _log.warning("%s: the index cannot be stored (%s)", folder, error)
        return None
    try:
        for name, array in arrays.items():
            _write(temporary / f"{name}.npy", array)
        facts = {**facts, "checksums": {name: _checksum(array) for name, array in arrays.items()}}
        (temporary / "facts.json").write_text(json.dumps(facts), encoding="utf-8")
        shutil.rmtree(folder, ignore_errors=True)
        os.replace(temporary, folder)
    except OSError as error:  # a full disk, or another process that was faster
        shutil.rmtree(temporary, ignore_errors=True)
        _log.warning("%s: the index cannot be stored (%s)", folder, error)
        return open_entry(folder)
    return open_entry(folder, check=False)


def _write(path: Path, array: np.ndarray) -> None:
    """Write .npy by blocks, so that no second copy of the array is in memory."""
    flat = np.ascontiguousarray(array)
    with open(path, "wb") as stream:
        header = {"descr": np.lib.format.dtype_to_descr(flat.dtype), "fortran_order": False, "shape": flat.shape}
        np.lib.format.write_array_header_1_0(stream, header)
        for block in _blocks(flat):
            stream.write(block)


def _map(path: Path) -> np.ndarray:
    array = np.asarray(np.load(path, mmap_mode="r" if path.stat().st_size > 256 else None, allow_pickle=False))
    array.setflags(write=False)
    return array


def _checksum(array: np.ndarray) -> int:
    value = zlib.crc32(f"{array.dtype.str}{array.shape}".encode())
    for block in _blocks(np.ascontiguousarray(array)):
        value = zlib.crc32(block, value)
    return value


def _blocks(array: np.ndarray):
    flat = array.reshape(-1).view(np.uint8)
    return (flat[start : start + _BLOCK].data for start in range(0, len(flat), _BLOCK))
