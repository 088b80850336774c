"""The files a scoring run leaves: quality-scores in four formats, and failures.csv.

Text is UTF-8; a file name that is no UTF-8 keeps its bytes (surrogateescape), so names can be joined again.
"""

import itertools
import logging
import os
import pickle
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet
from scipy.stats import rankdata

from data.tables.names import Names
from utils.files import atomic_write

logger = logging.getLogger(__name__)

SCORES = "quality-scores"
FAILURES = "failures.csv"
FORMATS = ("pkl", "csv", "txt", "parquet")
_PROTOCOL = 3
_ENTRIES_AT_ONCE = 1 << 16


class Scored(NamedTuple):
    """The scored images of a folder."""

    root: str
    """The folder, as the user wrote it."""
    names: Names
    """Relative POSIX paths."""
    quality: np.ndarray
    """(N,) float32, finite."""


def percentiles(quality_N: np.ndarray) -> np.ndarray:
    """Return each score's rank among them all, in (0, 100]: the best has 100, equal scores share their mean rank."""
    return rankdata(quality_N) * (100 / max(1, len(quality_N)))


def write_scores(folder: Path, scored: Scored, formats: Sequence[str] = ("pkl", "csv")) -> list[Path]:
    """Write quality-scores.FORMAT for each format and return the paths; each file is whole or absent."""
    writers = {"pkl": _write_pickle, "csv": _write_csv, "txt": _write_txt, "parquet": _write_parquet}
    paths = []
    for kind in FORMATS:
        if kind in formats:
            paths.append(folder / f"{SCORES}.{kind}")
            writers[kind](paths[-1], scored)
    return paths


def write_failures(folder: Path, names: Names, reasons: Mapping[int, str]) -> Path:
    """Write failures.csv: path and reason of each row that got no score, in the order of the rows."""
    path = folder / FAILURES
    with atomic_write(path, "w", errors="surrogateescape") as stream:
        stream.write("path,reason\n")
        stream.writelines(f"{csv_cell(names[row])},{csv_cell(reasons[row])}\n" for row in sorted(reasons))
    return path


def remove_outputs(folder: Path) -> None:
    """Remove what an earlier run left."""
    for kind in FORMATS:
        (folder / f"{SCORES}.{kind}").unlink(missing_ok=True)
    (folder / FAILURES).unlink(missing_ok=True)


def csv_cell(text: str) -> str:
    """Quote a cell where needed; unlike csv.writer of Python before 3.13, a lone carriage return too."""
    if any(character in text for character in ',"\r\n') or text != text.strip():
        return '"' + text.replace('"', '""') + '"'
    return text


def dump_dict(items: Iterable[tuple[str, Any]], stream: IO[bytes]) -> None:
    """Pickle a dict of these items without ever holding it whole: 100 M entries would take 43 GB.

    Protocol 3 has no frames: a pickled dict is a head, its items and a stop, and items of further dicts, with memo
    numbers that begin anew, may follow those of the first.
    """
    items, head = iter(items), pickle.dumps({}, _PROTOCOL)[:-1]
    stream.write(head)
    while part := dict(itertools.islice(items, _ENTRIES_AT_ONCE)):
        stream.write(pickle.dumps(part, _PROTOCOL)[len(head) : -1])
    stream.write(pickle.STOP)


def _write_csv(path: Path, scored: Scored) -> None:
    ranks = percentiles(scored.quality)
    with atomic_write(path, "w", errors="surrogateescape") as stream:
        stream.write("path,quality,percentile\n")
        for name, quality, percentile in zip(scored.names, scored.quality, ranks, strict=True):
            stream.write(f"{csv_cell(name)},{quality!s},{percentile:.4f}\n")


def _write_pickle(path: Path, scored: Scored) -> None:
    """Write the official form: dict of full path, as os.walk gives it, to np.float32."""
    paths = (os.path.join(scored.root, name) for name in scored.names)
    with atomic_write(path) as stream:
        dump_dict(zip(paths, scored.quality, strict=True), stream)


def _write_txt(path: Path, scored: Scored) -> None:
    """Write `path score` lines; a name with a line break has no place in such a file and is left out."""
    left_out = 0
    with atomic_write(path, "w", errors="surrogateescape") as stream:
        for name, quality in zip(scored.names, scored.quality, strict=True):
            if "\n" in name or "\r" in name:
                left_out += 1
            else:
                stream.write(f"{name} {quality!s}\n")
    if left_out:
        logger.warning("%s: left out %d names with a line break; the CSV has them", path, left_out)


def _write_parquet(path: Path, scored: Scored) -> None:
    """Write path, quality, percentile; Parquet text is UTF-8, so the odd byte of a name stands as \\xNN."""
    names = (name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace") for name in scored.names)
    columns = {
        "path": pa.array(names, pa.large_string(), size=len(scored.names)),
        "quality": pa.array(scored.quality, pa.float32()),
        "percentile": pa.array(percentiles(scored.quality), pa.float64()),
    }
    with atomic_write(path) as stream:
        pyarrow.parquet.write_table(pa.table(columns), stream)
