"""RecordIO (train.rec + train.idx), the form in which CASIA-WebFace and MS1MV2 reach users, read without mxnet.

A record is a uint32 magic, a uint32 of 3 bits continuation flag and 29 bits length, the data, padding to 4 bytes.
Data is `<IfQQ` (flag, label, id, id2), `flag` further float32 labels, then the encoded image. Where the data itself
holds the magic at a multiple of 4, the writer cuts the record there and leaves the magic out.
"""

import hashlib
import mmap
import os
import struct
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
from pyarrow import csv

from data.images.decode import ImageError
from data.sources.base import ImageSource
from data.tables.names import Names
from utils.errors import DataError

MAGIC = 0xCED7230A
_FRAME = struct.Struct("<II")
_HEADER = struct.Struct("<IfQQ")
_LENGTH_MASK = (1 << 29) - 1
_WHOLE, _START, _MIDDLE, _END = range(4)
_CHUNK = 1 << 16
_HEAD_TYPE = np.dtype([("magic", "<u4"), ("length", "<u4"), ("flag", "<u4"), ("label", "<f4"), ("ids", "<u8", 2)])


class Record(NamedTuple):
    """One record: its labels (the header's own, or the list that replaces it) and what follows them."""

    labels: np.ndarray
    payload: bytes


class RecordFile:
    """Read records by their key; memory-mapped, cheap to pickle."""

    def __init__(self, rec: str | os.PathLike):
        """Open `rec` and the .idx beside it. Raises DataError when one is missing, malformed or cut off."""
        self.rec = Path(rec)
        if self.rec.is_dir():
            self.rec = self.rec / "train.rec"
        if not self.rec.is_file():
            raise DataError(f"{self.rec}: no such record file; name the .rec file or the folder of train.rec")
        self.keys, self.offsets = _read_index(self.rec.with_suffix(".idx"))
        self.size = self.rec.stat().st_size
        self._map: mmap.mmap | None = None
        self._check_end()

    def __len__(self) -> int:
        return len(self.keys)

    def __getstate__(self) -> dict:
        return {**self.__dict__, "_map": None}

    @property
    def content(self) -> mmap.mmap:
        """Return the file's bytes, mapped at first use in each process."""
        if self._map is None:
            with open(self.rec, "rb") as stream:
                self._map = mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ)
        return self._map

    def _check_end(self) -> None:
        """Raise DataError naming the first record, in the order of the file, that does not lie wholly inside it."""
        places = np.argsort(self.offsets, kind="stable")
        beyond = np.searchsorted(self.offsets[places] + _FRAME.size, self.size, side="right")
        if beyond:
            self._data(int(places[beyond - 1]))
        if beyond < len(places):
            raise DataError(self._cut_off(int(self.keys[places[beyond]])))

    def read(self, place: int) -> Record:
        """Return the record at a place of `keys`; DataError names its key when it is damaged."""
        data = self._data(place)
        if len(data) < _HEADER.size:
            raise DataError(f"{self.rec}: record {self.keys[place]} is too short for its header; {_FETCH}")
        flag, label, _, _ = _HEADER.unpack_from(data)
        end = _HEADER.size + 4 * flag
        if len(data) < end:
            raise DataError(f"{self.rec}: record {self.keys[place]} is too short for its {flag} labels; {_FETCH}")
        labels = np.frombuffer(data, "<f4", flag, _HEADER.size) if flag else np.array([label], np.float32)
        return Record(labels, data[end:])

    def _data(self, place: int) -> bytes:
        at, parts, wanted = int(self.offsets[place]), [], (_WHOLE, _START)
        while True:
            if at + _FRAME.size > self.size:
                raise DataError(self._cut_off(self.keys[place]))
            magic, word = _FRAME.unpack_from(self.content, at)
            part, length = word >> 29, word & _LENGTH_MASK
            if magic != MAGIC or part not in wanted:
                raise DataError(
                    f"{self.rec}: no record {self.keys[place]} begins at byte {self.offsets[place]}, where the .idx "
                    "puts it; the two files do not belong together"
                )
            start = at + _FRAME.size
            if start + length > self.size:
                raise DataError(self._cut_off(self.keys[place]))
            parts.append(self.content[start : start + length])
            if part in (_WHOLE, _END):
                return struct.pack("<I", MAGIC).join(parts)
            at, wanted = start + (length + 3) // 4 * 4, (_MIDDLE, _END)

    def _cut_off(self, key: int) -> str:
        return f"{self.rec}: cut off within record {key}; the file has {self.size} bytes, fetch it again"

    def first_labels(self, places: np.ndarray) -> np.ndarray:
        """Return the first label of many records, (N,) float32, checking that each lies inside the file."""
        labels = np.empty(len(places), np.float32)
        for start in range(0, len(places), _CHUNK):
            rows = slice(start, start + _CHUNK)
            labels[rows] = self._first_labels(places[rows])
        return labels

    def _first_labels(self, places: np.ndarray) -> np.ndarray:
        view = np.frombuffer(self.content, np.uint8)
        offsets = self.offsets[places]
        near_end = offsets + _HEAD_TYPE.itemsize + 4 > self.size
        inside = np.where(near_end, 0, offsets)
        head = view[inside[:, None] + np.arange(_HEAD_TYPE.itemsize)].view(_HEAD_TYPE)[:, 0]
        whole = (head["magic"] == MAGIC) & (head["length"] >> 29 == _WHOLE)
        whole &= offsets + _FRAME.size + (head["length"] & _LENGTH_MASK) <= self.size
        whole &= ~near_end & ((head["length"] & _LENGTH_MASK) >= _HEADER.size + 4 * head["flag"].astype(np.int64))
        labels = head["label"].copy()
        listed = np.flatnonzero(whole & (head["flag"] > 0))
        after = inside[listed, None] + _HEAD_TYPE.itemsize + np.arange(4)
        labels[listed] = view[after].view("<f4")[:, 0]
        for row in np.flatnonzero(~whole):  # rare kinds, and damage, which this names
            labels[row] = self.read(int(places[row])).labels[0]
        return labels


class RecordSource(ImageSource):
    """Images of a RecordFile, in the order of their keys, which are their names; each comes with an identity."""

    def __init__(self, file: RecordFile, places: np.ndarray, identities: np.ndarray):
        """Take the records at `places` of the file and the identity of each, (N,) int32."""
        self.location = os.path.abspath(file.rec)
        self.file, self.places, self.identities = file, places, identities

    @cached_property
    def names(self) -> Names:
        """Return the keys in decimal."""
        return Names.from_arrow(pa.array(self.file.keys[self.places]).cast(pa.large_string()))

    def __len__(self) -> int:
        return len(self.places)

    def read(self, row: int) -> bytes:
        """Return the encoded image of a record."""
        try:
            return self.file.read(int(self.places[row])).payload
        except DataError as error:
            raise ImageError(str(error)) from error

    def describe(self, row: int) -> str:
        """Name file and record."""
        return f"{self.location}, record {self.file.keys[self.places[row]]}"

    def take(self, rows: np.ndarray) -> "RecordSource":
        """Return a source of the given rows, in that order."""
        return RecordSource(self.file, self.places[rows], self.identities[rows])

    def fingerprint(self) -> str:
        """Return the SHA-256 of the file's size and modification time, and of keys and offsets of the records."""
        status = os.stat(self.location)
        digest = hashlib.sha256(f"{status.st_size} {status.st_mtime_ns}".encode())
        for array in (self.file.keys, self.file.offsets):
            digest.update(array[self.places].data)
        return digest.hexdigest()

    def __getstate__(self) -> dict:
        return {name: value for name, value in self.__dict__.items() if name != "names"}


def open_records(rec: str | os.PathLike) -> RecordSource:
    """Open `rec`, or train.rec of a folder, and read every record's header.

    Raises DataError naming the first record that is damaged or has no identity.
    """
    file = RecordFile(rec)
    places = _image_places(file)
    labels = file.first_labels(places)
    wrong = np.flatnonzero(~((labels >= 0) & (labels == np.floor(labels)) & (labels < 2**24)))
    if len(wrong):
        key = file.keys[places[wrong[0]]]
        raise DataError(f"{file.rec}: record {key} has label {labels[wrong[0]]:g}, which is no identity number")
    return RecordSource(file, places, labels.astype(np.int32))


def _image_places(file: RecordFile) -> np.ndarray:
    """Return the places of keys 1 .. label[0] - 1 of record 0, or of all keys where record 0 is an image too."""
    keys = file.keys
    if keys[0] != 0 and file.read(len(keys) - 1).payload:  # a list of images that begins with another number
        return np.arange(len(keys))
    if keys[0] != 0:
        raise DataError(f"{file.rec}: the .idx has no record 0, the header of the set; {_FETCH}")
    head = file.read(0)
    if head.payload or len(head.labels) < 2:
        return np.arange(len(keys))
    stated = float(head.labels[0])
    if not 2 <= stated <= len(keys) + 1:
        raise DataError(
            f"{file.rec}: record 0 says that images end before {stated:g}, the .idx lists {len(keys)}; {_FETCH}"
        )
    count = int(stated) - 1
    if not np.array_equal(keys[1 : count + 1], np.arange(1, count + 1)):
        missing = np.setdiff1d(np.arange(1, count + 1), keys)
        first = f"record {missing[0]} is missing" if len(missing) else "others come between them"
        raise DataError(f"{file.rec}: the .idx should list images 1 to {count}, {first}; {_FETCH}")
    return np.arange(1, count + 1)


_FETCH = "fetch the files again"


def _read_index(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Read `key<TAB>offset` lines as keys and offsets, (N,) int64 each, sorted by key."""
    if not path.is_file():
        raise DataError(f"{path}: no such index; it must lie beside the .rec file")
    try:
        table = csv.read_csv(
            path,
            read_options=csv.ReadOptions(column_names=["key", "offset"]),
            parse_options=csv.ParseOptions(delimiter="\t"),
            convert_options=csv.ConvertOptions(column_types={"key": pa.int64(), "offset": pa.int64()}),
        )
    except (pa.ArrowInvalid, OSError) as error:
        reason = str(error).splitlines()[0]
        raise DataError(f"{path}: not an index of `key<TAB>offset` lines ({reason})") from error
    keys, offsets = (table[name].to_numpy() for name in ("key", "offset"))
    order = np.argsort(keys, kind="stable")
    keys, offsets = keys[order], offsets[order]
    if not len(keys) or offsets.min() < 0:
        raise DataError(f"{path}: {'holds a negative offset' if len(keys) else 'is empty'}; {_FETCH}")
    if (keys[1:] == keys[:-1]).any():
        raise DataError(f"{path}: key {keys[1:][keys[1:] == keys[:-1]][0]} appears twice; {_FETCH}")
    return keys, offsets
