"""Which kind of source a location is: the only place that knows them all."""

import os
from collections.abc import Callable
from pathlib import Path

from data.sources.base import ImageSource
from data.sources.folder import list_folder
from data.sources.recordio import open_records
from utils.errors import DataError

CONTAINERS: dict[str, Callable[[str | os.PathLike], ImageSource]] = {".rec": open_records}
"""What opens a file that holds images, by its suffix in lower case."""


def open_source(location: str | os.PathLike) -> ImageSource:
    """Open a folder of images or a file that holds them; raises DataError where the location is neither."""
    if not os.path.isfile(location):
        return list_folder(location)
    opener = CONTAINERS.get(Path(location).suffix.lower())
    if opener is None:
        known = ", ".join(CONTAINERS)
        raise DataError(f"{location}: is no folder, and no file that holds images ({known}); name one of them")
    return opener(location)
