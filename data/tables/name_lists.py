"""Lists of names: a text file with a name in each line."""

import os
from pathlib import Path

from data.tables.names import Names
from utils.errors import DataError


def read_names(path: str | os.PathLike) -> Names:
    """Read the lines of a text file that are not blank; a name that is no UTF-8 keeps its bytes."""
    try:
        lines = Path(path).read_bytes().removeprefix(b"\xef\xbb\xbf").splitlines()
    except OSError as error:
        raise DataError(
            f"{path}: cannot be read ({error.strerror or error}); name a text file with a name in each line"
        ) from error
    return Names.from_strings([line.strip() for line in lines if line.strip()])
