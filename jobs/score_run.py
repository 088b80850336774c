"""The state of a scoring run: what was asked, what is done. It outlives a kill at any moment.

In the run's folder: run.json says what was asked (`request`) and whether it is finished; partial/R.jsonl, one file
per process, gains one line per finished batch. Lines name rows of the sorted file list, so any number of processes
can go on from them. A line cut off by a kill is no JSON and counts as not written.
"""

import contextlib
import json
import platform
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
import PIL
import torch

from data.samples.datasets import CropBatch
from data.tables.scores import remove_outputs
from utils.errors import DataError
from utils.files import atomic_write, make_folder
from utils.requests import first_difference

RUN_FILE = "run.json"
PARTIAL = "partial"


@dataclass
class Progress:
    """Hold what is known about each row."""

    quality: np.ndarray
    """(N,) float32, NaN where there is no score."""
    done: np.ndarray
    """(N,) bool: scored or failed."""
    reasons: dict[int, str]
    """Why a row has no score."""
    not_square: int = 0
    """Crops that had to be squeezed into a square."""
    resized: int = 0
    """Square crops of another size."""

    @classmethod
    def empty(cls, count: int) -> "Progress":
        """Know nothing about `count` rows."""
        return cls(np.full(count, np.nan, np.float32), np.zeros(count, bool), {})

    def add(self, first: int, batch: dict[str, Any]) -> None:
        """Take over the rows from `first` on."""
        quality = np.array(batch["quality"], np.float32)
        rows = slice(first, first + len(quality))
        if self.done[rows].any():  # recorded before in other batches, then again as part of an unfinished one
            self.reasons = {row: reason for row, reason in self.reasons.items() if not rows.start <= row < rows.stop}
        self.quality[rows] = quality
        self.done[rows] = True
        self.reasons.update({first + int(offset): str(reason) for offset, reason in batch["failures"].items()})
        self.not_square += int(batch["not_square"])
        self.resized += int(batch.get("resized", 0))


class Outcome(NamedTuple):
    """What became of the images of one batch."""

    quality: np.ndarray
    """(B,) float32, NaN where there is no score."""
    failures: dict[int, str]
    """Place in the batch -> reason."""
    not_square: int
    """Crops that had to be squeezed into a square."""
    resized: int
    """Square crops of another size."""

    @classmethod
    def of(cls, batch: CropBatch, quality: np.ndarray, start: int) -> "Outcome":
        """Join scores and failures of a batch that begins at row `start` of the crops."""
        values = np.full(len(batch.rows) + len(batch.failures), np.nan, np.float32)
        failures = {row - start: reason for row, reason in batch.failures}
        for row, value in zip(batch.rows, quality, strict=True):
            if np.isfinite(value):
                values[row - start] = value
            else:
                failures[row - start] = f"the network returned {value}"
        return cls(values, failures, len(batch.not_square), len(batch.resized))


class ScoreRun:
    """Own run.json and the partial results of one folder; `request` decides whether an earlier run goes on."""

    def __init__(self, path: str | Path, request: dict[str, Any], count: int):
        """Take the output folder, everything that decides the scores as JSON values, and the number of images."""
        self.path = make_folder(path, "base.save_path")
        self.request = json.loads(json.dumps(request))
        self.count = count
        self._lock = None
        self._stream = None

    def open(self) -> str:
        """Go on with the unfinished run of the same request, or start anew; return what was decided, in words."""
        with self.saving():
            self._take_lock()
            reason = self._why_anew(self._read())
            if reason is None:
                return f"goes on with the unfinished run in {self.path}"
            for path in self._partial_files():
                path.unlink()
            remove_outputs(self.path)
            self._write({"status": "unfinished", "request": self.request})
        return reason

    def join(self) -> None:
        """Check, in a further process, that the first one opened the same run."""
        old = self._read()
        if old is None:
            raise DataError(f"{self.path}: no {RUN_FILE} of the first process; all must write to one shared folder")
        if difference := first_difference(old.get("request"), self.request):
            raise DataError(f"{self.path}: the processes disagree on {difference[0]}; give all the same files")

    def progress(self) -> Progress:
        """Read the partial results of all processes."""
        progress = Progress.empty(self.count)
        for path in self._partial_files():
            for line in _whole_lines(path):
                first = line["first"]
                if 0 <= first and first + len(line["quality"]) <= self.count:
                    progress.add(first, line)
        return progress

    def result(self) -> Progress:
        """Return the results of all processes; DataError when a row is missing, as after the death of one."""
        progress = self.progress()
        if missing := np.count_nonzero(~progress.done):
            raise DataError(
                f"{self.path}: {missing} of {self.count} images were reached by no process; run again to go on"
            )
        return progress

    def start_writing(self, rank: int) -> None:
        """Open the partial file of process `rank`; a line that a kill cut off is closed."""
        path = self.path / PARTIAL / f"{rank}.jsonl"
        with self.saving():
            self._stream = open(path, "ab+")
            if self._stream.seek(0, 2) and (self._stream.seek(-1, 2), self._stream.read(1))[1] != b"\n":
                self._stream.write(b"\n")

    def record(self, first: int, outcome: Outcome) -> None:
        """Append one finished batch, the rows from `first` on."""
        values = [None if np.isnan(value) else float(value) for value in outcome.quality]
        line = {"first": first, **outcome._asdict(), "quality": values}
        with self.saving():
            self._stream.write(json.dumps(line).encode() + b"\n")
            self._stream.flush()

    def finish(self, facts: dict[str, Any]) -> None:
        """Mark the run as finished, with `facts` about it and the versions used, and remove the partial results."""
        self.close()
        with self.saving():
            self._write({"status": "finished", **facts, "versions": versions(), "request": self.request})
            shutil.rmtree(self.path / PARTIAL, ignore_errors=True)

    def close(self) -> None:
        """Close the files; the run may go on later."""
        for stream in (self._stream, self._lock):
            if stream is not None:
                with contextlib.suppress(OSError):  # a full disk was reported when the line was written
                    stream.close()
        self._stream = self._lock = None

    @contextlib.contextmanager
    def saving(self) -> Iterator[None]:
        """Turn a disk that is full or read-only into one sentence."""
        try:
            yield
        except OSError as error:
            raise DataError(
                f"{self.path}: cannot be written ({error.strerror}); what is finished is kept, run again to go on"
            ) from error

    def _why_anew(self, old: dict[str, Any] | None) -> str | None:
        if old is None or "request" not in old:
            return f"starts a new run in {self.path}"
        if old.get("status") != "unfinished":
            return f"replaces the finished run in {self.path}"
        difference = first_difference(old["request"], self.request)
        if difference:
            return f"starts anew: the unfinished run in {self.path} differs in {difference[0]}"
        return None

    def _read(self) -> dict[str, Any] | None:
        try:
            content = json.loads((self.path / RUN_FILE).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None
        return content if isinstance(content, dict) else None

    def _write(self, content: dict[str, Any]) -> None:
        with atomic_write(self.path / RUN_FILE, "w") as stream:
            json.dump(content, stream, indent=2)
            stream.write("\n")

    def _partial_files(self) -> list[Path]:
        return sorted((self.path / PARTIAL).glob("*.jsonl"))

    def _take_lock(self) -> None:
        """Keep a second run out of this folder while this process lives; only where the system has POSIX locks."""
        path = make_folder(self.path / PARTIAL, "base.save_path") / "lock"
        self._lock = open(path, "wb")
        try:
            import fcntl

            fcntl.lockf(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (ImportError, OSError) as error:
            if isinstance(error, BlockingIOError | PermissionError):
                raise DataError(f"{self.path}: another run writes there; wait, or change base.save_path") from error


def versions() -> dict[str, str]:
    """Return the versions of what decides pixels and scores."""
    packages = {"torch": torch, "numpy": np, "opencv": cv2, "pillow": PIL}
    return {"python": platform.python_version(), **{name: module.__version__ for name, module in packages.items()}}


def _whole_lines(path: Path) -> Iterator[dict[str, Any]]:
    with open(path, "rb") as stream:
        for text in stream:
            try:
                line = json.loads(text)
            except ValueError:
                continue
            if isinstance(line, dict) and text.endswith(b"\n"):
                yield line
