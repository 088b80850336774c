"""Who is on an image: told by its folder, by a part of its name, or by a table."""

import csv
import os
import re
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from data.tables.encoding import open_text
from data.tables.join import join
from data.tables.names import Names
from utils.errors import DataError
from utils.outside.reading import reading, shown

_TABLES = (".csv", ".tsv", ".txt")


class Identities(NamedTuple):
    """The identity of each image, and what each is called."""

    rows: np.ndarray
    """(N,) int32."""
    classes: Names
    """Sorted by their bytes; those no image has are not there."""

    def require_folders(self, place: str, way_out: str) -> None:
        """Raise DataError, which ends with `way_out`, where images lie in no folder."""
        if len(self.classes) and self.classes[0] == "":
            raise DataError(f"{place}: images lie directly in this folder; {way_out}")


def find_identities(names: Names, rule: str = "parent") -> Identities:
    """Tell the identity of each image by a rule.

    parent: its folder; top: the first folder of its name; a table NAME,IDENTITY (.csv, .tsv, .txt); else an expression
    whose first group, or whole match, in the name is the identity. DataError names an image without one.
    """
    array = names.to_arrow()
    if rule in ("parent", "top"):
        rest = r"(^|/)[^/]*$" if rule == "parent" else r"(^[^/]*$)|(/.*$)"
        found = pc.replace_substring_regex(array, pattern=rest, replacement="", max_replacements=1)
    elif rule.lower().endswith(_TABLES):
        found = _by_table(names, rule)
    else:
        found = Names.from_strings(_by_expression(names, rule)).to_arrow()
    coded = found.dictionary_encode()
    identity, classes = coded.indices.to_numpy(), Names.from_arrow(coded.dictionary)
    if (order := classes.order()) is not None:
        place = np.empty(len(order), np.int32)
        place[order] = np.arange(len(order), dtype=np.int32)
        identity, classes = place[identity], classes.take(order)
    del found, coded
    pa.default_memory_pool().release_unused()  # Arrow keeps what it has used; the next steps need it
    return Identities(identity, classes)


def identity_table(rule: str) -> str | None:
    """Return the table a rule names, None where it is another kind of rule."""
    return os.path.expanduser(rule) if rule.lower().endswith(_TABLES) else None


def folder_remarks(found: Identities, rule: str, key: str) -> list[str]:
    """Return warnings where folders lie below the folders of people: each of them counts as a person of its own."""
    if rule != "parent":
        return []
    folders = list(found.classes)
    nested = [folder for folder in folders if "/" in folder]
    if not nested:
        return []
    holds = set(folders)
    mixed = [folder for folder in nested if any(above in holds for above in _above(folder))]
    what = (
        f"{mixed[0].partition('/')[0]!r} holds images and folders"
        if mixed
        else f"folders lie in folders, {nested[0]!r}"
    )
    return [
        f"{what}; each of the {len(folders):,} folders with images counts as a person, while there are "
        f"{len({folder.partition('/')[0] for folder in folders}):,} folders at the top; if those are the people, set "
        f"{key}: top"
    ]


def _above(folder: str) -> list[str]:
    parts = folder.split("/")
    return ["/".join(parts[:end]) for end in range(1, len(parts))]


def _by_table(names: Names, rule: str) -> pa.Array:
    path = Path(rule).expanduser()
    with reading(path, "cannot be read as a table of NAME,IDENTITY", "name another file"):
        with open_text(path) as stream:
            rows = [row for row in csv.reader(stream, delimiter="," if path.suffix.lower() == ".csv" else "\t") if row]
        wrong = next((row for row in rows if len(row) != 2), None)
        if not rows or wrong is not None:
            said = "no row" if wrong is None else shown(wrong)
            raise DataError(f"{path}: expected two columns, NAME,IDENTITY, found {said}; mend the file")
        found = join(names, Names.from_strings(row[0] for row in rows)).rows
        if (found < 0).any():
            first = names[int(np.argmax(found < 0))]
            raise DataError(f"{path}: {np.count_nonzero(found < 0)} images have no identity, first {first!r}; add them")
        return Names.from_strings(row[1] for row in rows).take(found).to_arrow()


def _by_expression(names: Names, rule: str) -> list[str]:
    try:
        pattern = re.compile(rule)
    except re.error as error:
        raise DataError(f"identity {rule!r} is neither parent, top, a table nor an expression ({error})") from error
    found = []
    for name in names:
        match = pattern.search(name)
        if match is None or not (text := match[1 if pattern.groups else 0]):
            raise DataError(f"identity {rule!r} finds nothing in {name!r}; mend the expression or name parent or top")
        found.append(text)
    return found
