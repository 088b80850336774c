"""What was computed once and is kept: a folder of entries, each named by the hash of what it was made from.

FOLDER/KIND-HASH holds the files of an entry and facts.json: the facts it was made from, a note, size and checksum of
each file, and a checksum of all this. Entries appear whole or not at all. Other facts are another entry, so that no
old content is ever taken for the current one; the log says what differs.
"""

import contextlib
import fnmatch
import hashlib
import json
import logging
import os
import re
import secrets
import shutil
import time
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from utils.files import allocate, claimed, remove_abandoned
from utils.requests import difference_text, differences

_FACTS = "facts.json"
_FORMAT = 2
_BLOCK = 1 << 18  # stays in the processor's cache between reading and summing
_DAY_S = 86_400
_PLACE = re.compile(r"([^.].*)-[0-9a-f]{32}")
_DRAFT = re.compile(r"\..+-[0-9a-f]{32}\.[0-9a-f]{8}")
_Identity = tuple[int, int]
_log = logging.getLogger(__name__)


class DamagedEntry(ValueError):
    """Signal an entry whose files are not those that were stored."""


@dataclass(frozen=True)
class Entry:
    """An entry that is there, whole."""

    folder: Path
    facts: dict[str, Any]
    """What it was made from."""
    note: dict[str, Any]
    """What was kept beside its files."""
    files: tuple[str, ...]
    identity: _Identity | None
    """Which of the entries that have lain in this folder it is."""

    def arrays(self) -> dict[str, np.ndarray]:
        """Map every array kept by `save_array`, read-only, by name.

        Raises FileNotFoundError where another process has removed the entry since it was opened.
        """
        return {name[:-4]: _map(self.folder / name) for name in self.files if name.endswith(".npy")}

    def discard(self) -> None:
        """Remove the entry, unless another has its place already; what is mapped from it stays readable."""
        if _identity(self.folder) == self.identity:
            _discard(self.folder)


class Stored(NamedTuple):
    """One line of a store's list."""

    folder: Path
    kind: str
    size: int
    """Bytes of its files."""
    unused_days: float
    """Since it was made or last opened."""
    facts: dict[str, Any] | None
    """None: written by another version of this program, or damaged."""


class Store:
    """Keep entries in one folder; every process may use it at any time."""

    def __init__(self, folder: str | os.PathLike):
        """Name the folder; it is made when something is stored."""
        self.folder = Path(folder)

    def place(self, kind: str, facts: Mapping[str, Any]) -> Path:
        """Return where the entry of this kind, made from these JSON values, is kept."""
        return self.folder / f"{_file_name(kind)}-{facts_sha256(facts)[:32]}"

    def open(self, kind: str, facts: Mapping[str, Any]) -> Entry | None:
        """Return the entry made from these facts, every checksum compared; None, with the reason logged, without one.

        A damaged entry is removed.
        """
        place = self.place(kind, facts)
        identity = _identity(place)
        try:
            entry = read_entry(place)
            if entry.facts != json.loads(json.dumps(facts)):
                raise DamagedEntry(f"{_FACTS} is of another entry")
        except FileNotFoundError:
            if reason := self.why_not(kind, facts):
                _log.info(reason)
            return None
        except (OSError, DamagedEntry) as error:
            if _identity(place) == identity:  # else another process has removed or replaced it meanwhile
                _log.warning("%s: the stored entry is damaged (%s) and is made anew", place, error)
                _discard(place)
            return None
        with contextlib.suppress(OSError):  # a store that may only be read
            os.utime(place)
        return entry

    @contextlib.contextmanager
    def create(
        self,
        kind: str,
        facts: Mapping[str, Any],
        note: Mapping[str, Any] | None = None,
        reserve: Mapping[str, int] | None = None,
    ) -> Iterator[Path]:
        """Yield an empty folder for the entry's files; it becomes the entry when the block ends without an error.

        `reserve` makes files of so many zero bytes, on disk, to be filled in place later: they have no checksum. Where
        another process has stored the same entry in the meantime, that one stays.
        """
        place, reserve = self.place(kind, facts), reserve or {}
        self.folder.mkdir(parents=True, exist_ok=True)
        remove_abandoned(self.folder, _DRAFT)
        with claimed(lambda: _new_draft(place)) as draft:
            try:
                for name, size in reserve.items():
                    with open(draft / name, "wb") as stream:
                        allocate(stream, size)
                yield draft
                files = {
                    path.name: [path.stat().st_size, None if path.name in reserve else _crc32(path)]
                    for path in sorted(draft.iterdir())
                }
                told = json.dumps({"facts": facts, "note": note or {}, "files": files})
                (draft / _FACTS).write_text(
                    f'{{"store": {_FORMAT}, "crc32": {zlib.crc32(told.encode())}, "entry": {told}}}', encoding="utf-8"
                )
                _publish(draft, place)
            finally:
                shutil.rmtree(draft, ignore_errors=True)

    def why_not(self, kind: str, facts: Mapping[str, Any]) -> str | None:
        """Say what the nearest entry of this kind was made from instead; None when there is none of this kind."""
        facts = json.loads(json.dumps(facts))
        known = [one for one in self.entries() if one.kind == _file_name(kind)]
        readable = [one for one in known if one.facts is not None]
        if readable:
            nearest = min(readable, key=lambda one: (len(list(differences(one.facts, facts))), one.unused_days))
            told = difference_text(nearest.facts, facts)
            return f"{nearest.folder}: not used, it was made from something else: {told}"
        if known:
            return f"{known[0].folder}: not used, it is of another version of this program"
        return None

    def entries(self) -> list[Stored]:
        """Return what is kept here, the longest unused first."""
        found = []
        for folder in _folders(self.folder):
            if match := _PLACE.fullmatch(folder.name):
                with contextlib.suppress(FileNotFoundError):  # another process has just removed it
                    found.append(_stored(folder, match[1]))
        return sorted(found, key=lambda one: -one.unused_days)

    def lines(self, kind: str = "*", unused_days: float = 0.0) -> list[str]:
        """Return a line on each entry: size, age, and in what it differs from the last used one of its kind."""
        latest = {one.kind: one for one in self.entries() if one.facts is not None}
        return [_line(one, latest.get(one.kind)) for one in self._chosen(kind, unused_days)]

    def clear(self, kind: str = "*", unused_days: float = 0.0) -> list[Stored]:
        """Remove and return the entries of a kind (`*` stands for anything) that nobody has opened for so many days.

        What interrupted processes left half written goes with them.
        """
        removed = self._chosen(kind, unused_days)
        for one in removed:
            _discard(one.folder)
        remove_abandoned(self.folder, _DRAFT)
        return removed

    def _chosen(self, kind: str, unused_days: float) -> list[Stored]:
        kept = self.entries()
        return [one for one in kept if fnmatch.fnmatchcase(one.kind, kind) and one.unused_days >= unused_days]


def read_entry(folder: str | os.PathLike, check: bool = True) -> Entry:
    """Return the entry in a folder; without `check` its files are trusted.

    Raises FileNotFoundError when there is none, DamagedEntry when its files are not those that were stored.
    """
    folder = Path(folder)
    identity = _identity(folder)
    told = _read_facts(folder)
    for name, (size, checksum) in told["files"].items() if check else ():
        path = folder / name
        if not path.is_file() or path.stat().st_size != size:
            raise DamagedEntry(f"{name} has another size")
        if checksum is not None and _crc32(path) != checksum:
            raise DamagedEntry(f"the checksum of {name} differs")
    return Entry(folder, told["facts"], told["note"], tuple(told["files"]), identity)


def save_array(folder: Path, name: str, array: np.ndarray) -> None:
    """Write NAME.npy without a second copy of the array in memory."""
    flat = np.ascontiguousarray(array)
    with open(folder / f"{name}.npy", "wb") as stream:
        np.lib.format.write_array_header_1_0(stream, np.lib.format.header_data_from_array_1_0(flat))
        stream.write(flat.reshape(-1).view(np.uint8).data)


def facts_sha256(facts: Mapping[str, Any]) -> str:
    """Return the SHA-256 of JSON values, whatever the order of their keys."""
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


def _line(one: Stored, latest: Stored | None) -> str:
    line = f"{one.folder.name}: {one.size / 2**20:,.1f} MiB, unused for {one.unused_days:.1f} days"
    if one.facts is None or latest is None:
        return f"{line}, damaged or of another version of this program"
    if latest is None or latest.facts is None or one.folder == latest.folder:
        return line
    return f"{line}, older content: {difference_text(one.facts, latest.facts)}"


def _file_name(kind: str) -> str:
    safe = "".join(c if c.isalnum() or c in "-_.()" else "_" for c in kind).lstrip(".")
    return safe.encode()[:120].decode(errors="ignore")


def _read_facts(folder: Path) -> dict[str, Any]:
    text = (folder / _FACTS).read_bytes()
    try:
        read = json.loads(text)
        told = read["entry"]
        if read["store"] != _FORMAT or read["crc32"] != zlib.crc32(json.dumps(told).encode()):
            raise ValueError("another version, or damaged")
        files = {name: (size, checksum) for name, (size, checksum) in told["files"].items()}
        return {"facts": dict(told["facts"]), "note": dict(told["note"]), "files": files}
    except Exception:  # whatever the JSON in its place holds
        raise DamagedEntry(f"{_FACTS} is of another version or damaged") from None


def _new_draft(place: Path) -> Path:
    draft = place.with_name(f".{place.name}.{secrets.token_hex(4)}")
    draft.mkdir()
    return draft


def _publish(draft: Path, place: Path) -> None:
    try:
        os.replace(draft, place)
    except OSError:  # another process was faster
        if not (place / _FACTS).is_file():
            raise


def _identity(folder: Path) -> _Identity | None:
    """Tell an entry from another one that is made from the same facts; None: there is none."""
    try:
        status = os.stat(folder / _FACTS)
    except OSError:
        return None
    return status.st_ino, status.st_mtime_ns


def _discard(folder: Path) -> None:
    """Remove a folder that others may be opening: first its name, then its files."""
    aside = folder.with_name(f".{folder.name}.{secrets.token_hex(4)}")
    with contextlib.suppress(OSError):
        os.replace(folder, aside)
    shutil.rmtree(aside, ignore_errors=True)
    with contextlib.suppress(OSError):  # a file in the place of an entry
        aside.unlink()


def _folders(folder: Path) -> list[Path]:
    try:
        return sorted(path for path in folder.iterdir() if path.is_dir())
    except OSError:
        return []


def _stored(folder: Path, kind: str) -> Stored:
    try:
        facts = _read_facts(folder)["facts"]
    except (OSError, DamagedEntry):
        facts = None
    size = sum(path.stat().st_size for path in folder.iterdir())
    return Stored(folder, kind, size, _unused_days(folder), facts)


def _unused_days(folder: Path) -> float:
    return max(0.0, time.time() - folder.stat().st_mtime) / _DAY_S


def _map(path: Path) -> np.ndarray:
    array = np.asarray(np.load(path, mmap_mode="r" if path.stat().st_size > 256 else None, allow_pickle=False))
    array.setflags(write=False)
    return array


def _crc32(path: Path) -> int:
    value, buffer = 0, memoryview(bytearray(_BLOCK))
    with open(path, "rb", buffering=0) as stream:
        while count := stream.readinto(buffer):
            value = zlib.crc32(buffer[:count], value)
    return value
