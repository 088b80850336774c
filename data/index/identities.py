"""Identities by folder: the images of a person lie in one folder."""

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from data.sources.base import ImageSource
from data.tables.names import Names
from utils.errors import DataError


def folder_identities(source: ImageSource, way_out: str) -> tuple[np.ndarray, Names]:
    """Return the identity of each image, (N,) int32, and the folder of each identity, sorted by its bytes.

    Raises DataError, which ends with `way_out`, where an image lies in no folder.
    """
    file = r"(^|/)[^/]*$"
    paths = pc.replace_substring_regex(source.names.to_arrow(), pattern=file, replacement="", max_replacements=1)
    coded = paths.dictionary_encode()
    identity, folders = coded.indices.to_numpy(), Names.from_arrow(coded.dictionary)
    if (order := folders.order()) is not None:
        place = np.empty(len(order), np.int32)
        place[order] = np.arange(len(order), dtype=np.int32)
        identity, folders = place[identity], folders.take(order)
    if folders[0] == "":
        raise DataError(f"{source.location}: images lie directly in this folder; {way_out}")
    del paths, coded
    pa.default_memory_pool().release_unused()  # Arrow keeps what it has used; the next steps need it
    return identity, folders
