"""Embeddings in files: .npz, .npy with a list, a folder of .npy, a pickled dict, MagFace's feat.list."""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from data.tables.encoding import open_text, require_text
from data.tables.forms.plain import load_array, load_arrays, names_beside, names_of
from data.tables.forms.rows import RowRules, drop_repeats
from data.tables.names import Names
from utils.errors import DataError
from utils.outside.reading import reading, shown
from utils.pickles import load_restricted_pickle

_PICKLES = (".pkl", ".pickle", ".p")


def read_vectors(path: Path) -> tuple[Names, np.ndarray]:
    """Return names, each once, and embeddings (N, D) float32; a name may come twice with the same embedding.

    Raises DataError where the file is no documented form, or an image has two embeddings.
    """
    with reading(path, way_out="see docs/formats.md for the forms of embeddings", bounded=not path.is_dir()):
        names, values = _vectors(path)
        kept = drop_repeats(path, names, values, lambda row: f", embedding {row}", RowRules())
        return (names, values) if kept is None else (names.take(kept[0]), kept[1])


def _vectors(path: Path) -> tuple[Names, np.ndarray]:
    suffix = path.suffix.lower()
    if path.is_dir():
        return _of_folder(path)
    if suffix == ".npz":
        return _of_npz(path)
    if suffix == ".npy":
        value = load_array(path)
        if isinstance(value, dict):
            return _stacked(path, value.items())
        return names_beside(path, len(_checked(path, value))), value.astype(np.float32, copy=False)
    if suffix in _PICKLES:
        table = load_restricted_pickle(path, encoding="bytes")
        if not isinstance(table, dict):
            raise DataError(f"{path}: expected a dict of name -> embedding, found {type(table).__name__}")
        return _stacked(path, table.items())
    return _stacked(path, _lines(path))


def _of_npz(path: Path) -> tuple[Names, np.ndarray]:
    arrays = load_arrays(path)
    missing = [key for key in ("names", "embeddings") if key not in arrays]
    if missing:
        held = ", ".join(arrays)[:120] or "nothing"
        raise DataError(f"{path}: holds no array {missing[0]!r} but {held}; call its arrays names and embeddings")
    names, values = names_of(path, arrays["names"]), _checked(path, arrays["embeddings"])
    if len(names) != len(values):
        raise DataError(f"{path}: {len(names)} names but {len(values)} embeddings; one name per embedding")
    return names, values.astype(np.float32, copy=False)


def _checked(path: Path, values: Any) -> np.ndarray:
    if not isinstance(values, np.ndarray) or values.ndim != 2 or values.dtype.kind != "f":
        found = f"{values.dtype} {values.shape}" if isinstance(values, np.ndarray) else type(values).__name__
        raise DataError(f"{path}: expected embeddings (N, D) of floats, found {found}")
    return values


def _of_folder(path: Path) -> tuple[Names, np.ndarray]:
    """Read a .npy of (D,) or (1, D) for each image; its name is its path without the suffix."""
    files = sorted(file.relative_to(path).as_posix() for file in path.rglob("*.npy"))
    if not files:
        raise DataError(f"{path}: holds no .npy; name a folder with an embedding for each image")
    return _stacked(path, ((name[: -len(".npy")], load_array(path / name)) for name in files))


def _lines(path: Path) -> Iterator[tuple[str, np.ndarray]]:
    """Yield name and numbers of each line: MagFace's feat.list, whose names hold no blanks."""
    require_text(path)
    with open_text(path) as stream:
        for number, line in enumerate(stream, 1):
            name, _, rest = line.strip().partition(" ")
            if not name:
                continue
            try:
                yield name, np.array(rest.split(), np.float32)
            except ValueError:
                raise DataError(
                    f"{path}, line {number}: {shown(line.strip())} is no name followed by numbers; see docs/formats.md "
                    "for the forms of embeddings"
                ) from None


def _stacked(path: Path, items: Iterable[tuple[Any, Any]]) -> tuple[Names, np.ndarray]:
    names, rows = [], []
    for name, value in items:
        row = np.asarray(value)
        row = row[0] if row.ndim == 2 and len(row) == 1 else row
        if not isinstance(name, str | bytes) or row.ndim != 1 or row.dtype.kind not in "fi" or not row.size:
            raise DataError(f"{path}: {shown(name)} has no embedding but {shown(value)}; mend or remove it")
        if rows and len(row) != len(rows[0]):
            raise DataError(
                f"{path}: {shown(name)} has {len(row)} numbers, the first embedding {len(rows[0])}; mend it"
            )
        names.append(name)
        rows.append(row.astype(np.float32, copy=False))
    if not rows:
        raise DataError(f"{path}: holds no embeddings; name another file")
    if len(rows[0]) < 2:
        raise DataError(f"{path}: {shown(names[0])} has one number, which is no embedding; is it a list of scores?")
    return Names.from_strings(names), np.stack(rows)
