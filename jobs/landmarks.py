"""A folder of images -> landmarks.csv and failures.csv, one journal line per image, taken up where it stopped."""

import csv
import json
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from data.detector import Face
from data.images.decode import ImageError, decode_rgb
from data.tables.landmarks import HEADER, landmark_cells
from data.tables.names import Names
from utils.config.sections import DecodeConfig
from utils.errors import DataError
from utils.files import atomic_write, writing
from utils.progress import progress

JOURNAL = "landmarks.journal.jsonl"
_WINDOW = 32


@dataclass(frozen=True)
class LandmarkRun:
    """What is detected, and where the results go."""

    root: str
    """Folder the names are relative to."""
    names: Names
    """Images, sorted."""
    folder: Path
    """Output folder."""
    request: dict[str, Any]
    """Everything that decides the results; a journal of another request is not continued."""
    decode: DecodeConfig
    """How files become pixels."""


class Outcome(NamedTuple):
    """What became of a run."""

    found: int
    failed: int
    resumed: int
    """Images an earlier, interrupted run had done."""


def detect_folder(
    run: LandmarkRun, detect: Callable[[np.ndarray], Face | None], threads: int, verbose: bool
) -> Outcome:
    """Detect in every image and write landmarks.csv and failures.csv at the end; every image is in one of the two.

    `detect` is called from several threads. Killed at any moment, the next call goes on behind the last whole
    journal line.
    """
    journal = run.folder / JOURNAL
    done = _recover(journal, run)
    rows = iter(range(done, len(run.names)))
    with (
        writing(journal),
        open(journal, "a", encoding="utf-8") as stream,
        ThreadPoolExecutor(threads) as pool,
        progress(total=len(run.names), initial=done, unit="img", desc="landmarks", verbose=verbose) as bar,
    ):
        while window := list(islice(rows, _WINDOW * threads)):
            for line in pool.map(lambda row: _line(run, detect, row), window):
                stream.write(line)
                stream.flush()
                bar.update()
    found, failed = _finish(journal, run)
    return Outcome(found, failed, done)


def _line(run: LandmarkRun, detect: Callable[[np.ndarray], Face | None], row: int) -> str:
    name = run.names[row]
    try:
        path = os.path.join(run.root, name)
        face = detect(decode_rgb(path, exif=run.decode.exif, max_pixels=run.decode.max_pixels))
        result = "no face found" if face is None else landmark_cells(face.points)
    except ImageError as error:
        result = str(error)
    return json.dumps([name, result]) + "\n"


def _recover(journal: Path, run: LandmarkRun) -> int:
    """Cut an earlier journal of the same request back to its whole lines, or start one; return the images done."""
    whole = len(head := json.dumps(run.request, sort_keys=True) + "\n")
    count = 0
    try:
        with open(journal, "rb") as stream:
            if stream.readline() != head.encode():
                raise FileNotFoundError
            for line in stream:
                if not line.endswith(b"\n") or count >= len(run.names) or json.loads(line)[0] != run.names[count]:
                    break
                whole, count = whole + len(line), count + 1
        os.truncate(journal, whole)
    except (FileNotFoundError, ValueError):
        with atomic_write(journal, "w") as stream:
            stream.write(head)
        return 0
    return count


def _entries(journal: Path) -> Iterator[tuple[str, Any]]:
    with open(journal, encoding="utf-8") as stream:
        yield from map(json.loads, islice(stream, 1, None))


def _finish(journal: Path, run: LandmarkRun) -> tuple[int, int]:
    found = failed = 0
    options = {"mode": "w", "errors": "surrogateescape"}
    with atomic_write(run.folder / "failures.csv", **options) as bad:
        failures = csv.writer(bad, lineterminator="\n")
        failures.writerow(("path", "reason"))
        with atomic_write(run.folder / "landmarks.csv", **options) as good:
            landmarks = csv.writer(good, lineterminator="\n")
            landmarks.writerow(HEADER)
            for name, result in _entries(journal):
                if isinstance(result, str):
                    failures.writerow((name, result))
                    failed += 1
                else:
                    landmarks.writerow((name, *result))
                    found += 1
    os.unlink(journal)
    if not found:
        raise DataError(
            f"{run.root}: no face was found in any of {len(run.names)} images; see {run.folder / 'failures.csv'}"
        )
    return found, failed
