"""Parquet files with a column of images, as of the Hugging Face hub: bytes, or a struct of bytes and path."""

import hashlib
import os
import threading
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from data.images.decode import ImageError
from data.sources.base import ImageSource, require_there
from data.tables.names import Names
from utils.errors import DataError
from utils.outside.reading import reading, reason

_NAME_COLUMNS = ("path", "name", "file_name", "filename", "file", "image_path", "__key__", "key", "id")


class _Layout(NamedTuple):
    image: str
    """The column of images."""
    struct: bool
    """Whether its values are structs of bytes and path."""


class ParquetSource(ImageSource):
    """Images of a parquet file; it is read by row groups, of which the last few stay in memory."""

    def __init__(self, location: str | os.PathLike, names: Names, rows: np.ndarray, layout: _Layout):
        """Take the names and the rows (N,) of the file."""
        self.location = os.path.abspath(location)
        self._names, self.rows, self.layout = names, rows, layout
        self._open()

    def _open(self) -> None:
        self._lock, self._groups, self._file = threading.Lock(), {}, None
        metadata = pq.read_metadata(self.location)
        counts = [metadata.row_group(group).num_rows for group in range(metadata.num_row_groups)]
        self._ends = np.cumsum(counts)

    def __getstate__(self) -> dict:
        return {name: value for name, value in self.__dict__.items() if name not in ("_lock", "_groups", "_file")}

    def __setstate__(self, state: dict) -> None:
        vars(self).update(state)
        self._open()

    def read(self, row: int) -> bytes:
        """Return an encoded image; raises ImageError where the file holds none there, or is damaged."""
        place = int(self.rows[row])
        group = int(np.searchsorted(self._ends, place, side="right"))
        first = int(self._ends[group - 1]) if group else 0
        try:
            value = self._group(group)[place - first]
            content = value["bytes"].as_py() if self.layout.struct and value.is_valid else value.as_py()
        except Exception as error:  # a damaged file makes Arrow raise many types
            if isinstance(error, OSError):
                require_there(self.location, error)
            raise ImageError(f"row group {group} cannot be read: {reason(error)}") from None
        if not content or not isinstance(content, bytes):
            raise ImageError("no bytes of an image in this row")
        return content

    def _group(self, group: int) -> pa.ChunkedArray:
        with self._lock:
            if group not in self._groups:
                while len(self._groups) >= _KEPT_GROUPS:
                    del self._groups[next(iter(self._groups))]
                if self._file is None:
                    self._file = pq.ParquetFile(self.location)
                table = self._file.read_row_group(group, columns=[self.layout.image], use_threads=False)
                self._groups[group] = table.column(0)
            return self._groups[group]

    def describe(self, row: int) -> str:
        """Name file, row and image."""
        return f"{self.location}, row {self.rows[row]}, {self._names[row]}"

    def take(self, rows: np.ndarray) -> "ParquetSource":
        """Return a source of the given rows, in that order."""
        return ParquetSource(self.location, self._names.take(rows), self.rows[rows], self.layout)

    def fingerprint(self) -> str:
        """Return the SHA-256 of the file's size and time of change, and of the names and rows of the images."""
        status = os.stat(self.location)
        digest = hashlib.sha256(f"{status.st_size} {status.st_mtime_ns} {self._names.digest()}".encode())
        digest.update(np.ascontiguousarray(self.rows).data)
        return digest.hexdigest()


_KEPT_GROUPS = 3


def open_parquet(location: str | os.PathLike) -> ParquetSource:
    """Open a parquet file; names are the images' paths, a column of names, or row numbers.

    Raises DataError where no column holds images.
    """
    with reading(location, "cannot be read as parquet", "fetch it again"):
        file = pq.ParquetFile(location)
        layout = _layout(file.schema_arrow)
        if layout is None:
            raise DataError(
                f"{location}: no column holds images, which are bytes or structs of bytes and path; columns: "
                f"{', '.join(file.schema_arrow.names)}"
            )
        names = _names(file, layout)
    rows = np.arange(len(names))
    if (order := names.order()) is not None:
        names, rows = names.take(order), order
    return ParquetSource(location, names, rows, layout)


def _layout(schema: pa.Schema) -> _Layout | None:
    found = []
    for field in schema:
        struct = pa.types.is_struct(field.type) and field.type.get_field_index("bytes") >= 0
        if struct or pa.types.is_binary(field.type) or pa.types.is_large_binary(field.type):
            found.append(_Layout(field.name, struct))
    named = [layout for layout in found if layout.image.lower() in ("image", "img", "jpg", "png", "bytes")]
    structs = [layout for layout in found if layout.struct]
    return next(iter([*named, *structs, *found]), None)


def _names(file: pq.ParquetFile, layout: _Layout) -> Names:
    """Return names that tell all rows apart."""
    schema, candidates = file.schema_arrow, []
    if layout.struct and schema.field(layout.image).type.get_field_index("path") >= 0:
        candidates.append(f"{layout.image}.path")
    candidates += [name for name in _NAME_COLUMNS if name in schema.names and name != layout.image]
    for column in candidates:
        array: Any = pa.concat_tables([file.read(columns=[column])]).column(0).combine_chunks()
        if column == f"{layout.image}.path":
            array = pc.struct_field(array, "path")
        if pa.types.is_string(array.type) or pa.types.is_large_string(array.type):
            array = array.cast(pa.large_string())
            if not array.null_count and pc.count_distinct(array).as_py() == len(array):
                return Names.from_arrow(array.cast(pa.large_binary()))
    rows = file.metadata.num_rows
    width = max(6, len(str(rows - 1)))  # as text in the order of their numbers
    return Names.from_strings([f"{row:0{width}d}" for row in range(rows)])
