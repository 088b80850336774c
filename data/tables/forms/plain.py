"""JSON and numpy files as plain values, read with the care that files from outside need."""

import json
from pathlib import Path
from typing import Any

import numpy as np

from data.tables.name_lists import read_names
from data.tables.names import Names
from utils.errors import DataError
from utils.outside.reading import reading, shown
from utils.pickles import load_restricted_pickle

LINES = (".jsonl", ".ndjson")
_LISTS = (".txt", ".lst", ".list")
_HEADERS = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}


def load_json(path: Path) -> Any:
    """Return what a JSON file holds, of JSON lines a list; a name that occurs twice in an object is an error."""

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) < len(pairs):
            seen: set[str] = set()
            twice = next(key for key, _ in pairs if key in seen or seen.add(key))
            raise DataError(f"{path}: {shown(twice)} occurs twice in one object; keep one of the two")
        return found

    with reading(path, "cannot be read as JSON", "mend it, or name another file"):
        with open(path, encoding="utf-8-sig") as stream:
            if path.suffix.lower() in LINES:
                return [json.loads(line, object_pairs_hook=unique) for line in stream if line.strip()]
            return json.load(stream, object_pairs_hook=unique)


def load_arrays(path: Path) -> dict[str, np.ndarray]:
    """Return the arrays of a .npz."""
    with reading(path, "not a readable .npz of plain arrays", "save names as text, not objects"):
        with np.load(path, allow_pickle=False) as archive:
            return {key: archive[key] for key in archive.files}


def load_array(path: Path) -> Any:
    """Return the array of a .npy, or the plain value that `np.save` pickled in its place."""
    with reading(path, "not a readable .npy", "save plain arrays"):
        with open(path, "rb") as stream:
            read_header = _HEADERS.get(np.lib.format.read_magic(stream))
            if read_header is not None and read_header(stream)[2].hasobject:
                value = load_restricted_pickle(stream, encoding="bytes")
                return value.tolist() if isinstance(value, np.ndarray) else value
        return np.load(path, allow_pickle=False)


def list_beside(path: Path) -> Path | None:
    """Return the list of names beside a .npy: NAME.txt, .lst or .list; None where there is none, or for other files."""
    if path.suffix.lower() != ".npy":
        return None
    return next((place for suffix in _LISTS if (place := path.with_suffix(suffix)).is_file()), None)


def names_beside(path: Path, count: int) -> Names:
    """Return the lines of the list beside a .npy: the name of each of its rows."""
    beside = list_beside(path)
    if beside is None:
        raise DataError(
            f"{path}: an array holds no names; put a list of them, one a line, beside it as "
            f"{path.with_suffix('.txt').name}"
        )
    with reading(beside):
        names = read_names(beside)
        if len(names) != count:
            raise DataError(f"{beside}: {len(names)} names but {count} rows in {path.name}; one name a row")
        return names


def names_of(path: Path, array: np.ndarray) -> Names:
    """Return an array of text as names; DataError where it is something else."""
    if array.ndim != 1 or array.dtype.kind not in "US":
        raise DataError(f"{path}: expected names (N,) of text, found {array.dtype} {array.shape}; save them as text")
    return Names.from_strings(array.tolist())
