"""Found faces in files: landmarks.csv with box and detector score, and scores with a row per face."""

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.parquet

from data.tables.landmarks import HEADER
from data.tables.names import Names
from data.tables.scores import SCORES, percentiles
from data.tables.text_tables import write_csv
from utils.files import atomic_write

LANDMARKS_FILE = "landmarks.csv"
_BOX = ("box_x", "box_y", "box_w", "box_h", "detector_score")


class FaceTable(NamedTuple):
    """Faces of named images."""

    names: Names
    """The image of each face; of one image the largest face comes first."""
    faces: np.ndarray
    """(F, 15) float32: ten pixels of five points, box, detector score."""


def write_faces(path: str | Path, table: FaceTable, several: bool) -> None:
    """Write landmarks.csv: name, ten pixels, box, detector score; `several` adds the number of the face in its image.

    Numbers stand in the shortest form that reads back as the same float32.
    """
    title, *points = HEADER
    numbers = ([str(value) for value in row] for row in table.faces)
    columns = (title, "face", *points, *_BOX) if several else (*HEADER, *_BOX)
    rows: Iterable[tuple] = zip(table.names, numbers, strict=True)
    if several:
        write_csv(path, columns, ((name, str(n), *cells) for (name, cells), n in zip(rows, _count(table), strict=True)))
    else:
        write_csv(path, columns, ((name, *cells) for name, cells in rows))


def read_faces(path: str | Path) -> FaceTable:
    """Read what write_faces wrote; raises OSError or ArrowInvalid where it is something else."""
    columns = (*HEADER[1:], *_BOX)
    convert = pa.csv.ConvertOptions(
        column_types={HEADER[0]: pa.large_binary(), **dict.fromkeys(columns, pa.float64())},
        include_columns=[HEADER[0], *columns],
    )
    table = pa.csv.read_csv(path, None, pa.csv.ParseOptions(newlines_in_values=True), convert)
    names = Names.from_arrow(pa.concat_arrays([pa.array([], pa.large_binary()), *table[HEADER[0]].chunks]))
    return FaceTable(names, np.stack([table[name].to_numpy() for name in columns], 1).astype(np.float32))


def write_face_scores(folder: Path, table: FaceTable, quality_F: np.ndarray, formats: Sequence[str]) -> list[Path]:
    """Write a row per face: path, face, box, detector score, quality, percentile; as CSV, and parquet if asked for."""
    columns = ("path", "face", *_BOX, "quality", "percentile")
    ranks, boxes = percentiles(quality_F), table.faces[:, 10:]
    paths = [folder / f"{SCORES}.csv"]
    rows = zip(table.names, _count(table), boxes, quality_F, ranks, strict=True)
    write_csv(
        paths[0], columns, ((name, str(n), *map(str, box), str(q), f"{rank:.4f}") for name, n, box, q, rank in rows)
    )
    if "parquet" in formats:
        paths.append(folder / f"{SCORES}.parquet")
        names = (name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace") for name in table.names)
        numbers = [pa.array(np.fromiter(_count(table), np.int64)), *(pa.array(column) for column in boxes.T.copy())]
        arrays = [pa.array(names, pa.large_string(), size=len(table.names)), *numbers, quality_F, ranks]
        with atomic_write(paths[1]) as stream:
            pa.parquet.write_table(pa.table(dict(zip(columns, arrays, strict=True))), stream)
    return paths


def _count(table: FaceTable) -> Iterator[int]:
    """Yield the number of each face in its image, from 0."""
    array = table.names.to_arrow()
    same = pc.equal(array[1:], array[:-1]).to_numpy(zero_copy_only=False) if len(array) > 1 else np.zeros(0, bool)
    number = 0
    for place in range(len(array)):
        number = number + 1 if place and same[place - 1] else 0
        yield number
