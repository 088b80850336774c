"""Files of labels and landmarks, written as given; labels, read and checked."""

from pathlib import Path

import numpy as np

from data.tables.scores import read_scores


def written(tmp_path: Path, content: str | bytes, name: str = "table.txt") -> Path:
    """Write a file; return its path."""
    path = tmp_path / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def scores(path: Path) -> dict[str, float]:
    """Read a file of labels as one float64 for each name."""
    table = read_scores(path)
    assert table.values.dtype == np.float64 and table.values.shape == (len(table.names),)
    return dict(zip(table.names, table.values.tolist(), strict=True))
