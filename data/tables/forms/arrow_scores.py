"""Scores in Arrow's files: parquet and feather."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.feather
import pyarrow.parquet

from data.tables.columns import Columns, Header, taken
from data.tables.forms.score_values import ScoreRows, choose
from data.tables.names import Names
from utils.config.sections import ScoreForm
from utils.errors import DataError
from utils.outside.reading import reading

_MOST_ROWS_PER_BYTE = 10
_MOST_TEXT_PER_BYTE = 100
_LEAST_TEXT_BYTES = 64 << 20


def parquet_scores(path: Path, form: ScoreForm) -> ScoreRows:
    """Read the columns of name and score of a parquet file."""
    with reading(path, "cannot be read as parquet of names and numbers", "mend it"):
        schema = pa.parquet.read_schema(path)
        header, found = _header(path, schema, form)
        size, rows = path.stat().st_size, pa.parquet.read_metadata(path).num_rows
        if rows > _MOST_ROWS_PER_BYTE * size:
            raise DataError(f"{path}: claims {rows:,} rows in {size:,} bytes, too many for names that differ; mend it")
        name, score = (header.titles[place] for place in (found.name or 0, found.values[0]))
        return _rows(path, pa.parquet.read_table(path, columns=[name, score], read_dictionary=[name]), header, found)


def feather_scores(path: Path, form: ScoreForm) -> ScoreRows:
    """Read the columns of name and score of a feather file."""
    with reading(path, "cannot be read as feather of names and numbers", "mend it"):
        table = pa.feather.read_table(path, memory_map=False)
        header, found = _header(path, table.schema, form)
        return _rows(path, table.select([found.name or 0, found.values[0]]), header, found)


def _header(path: Path, schema: pa.Schema, form: ScoreForm) -> tuple[Header, Columns]:
    numeric = tuple(pa.types.is_integer(field.type) or pa.types.is_floating(field.type) for field in schema)
    header = Header(str(path), tuple(schema.names), numeric)
    return header, choose(header, form)


def _rows(path: Path, table: pa.Table, header: Header, found: Columns) -> ScoreRows:
    """Return names and values; refuse a file that repeats one name so often that it grows beyond a file of names."""
    size, written_out = path.stat().st_size, 0
    for chunk in table.column(0).chunks:
        if pa.types.is_dictionary(chunk.type):
            lengths = pc.binary_length(chunk.dictionary)
            written_out += pc.sum(lengths.take(chunk.indices)).as_py() or 0
    if written_out > max(_LEAST_TEXT_BYTES, _MOST_TEXT_PER_BYTE * size):
        raise DataError(f"{path}: repeats names to {written_out:,} bytes from {size:,}; give each image one row")
    array = pa.concat_arrays([pa.array([], pa.large_binary()), *table.column(0).cast(pa.large_binary()).chunks])
    values = np.array(table.column(1).cast(pa.float64()).to_numpy())
    if array.null_count:
        raise DataError(f"{path}: a name is missing; remove the row")
    remarks = (taken(found.values, header.titles, len(header.titles)),)
    return ScoreRows(Names.from_arrow(array), values, remarks, unit="row")
