"""Work that outlives a kill at any moment: the same request goes on, another one starts anew.

In the output folder: run.json says what was asked (`request`) and whether it is finished; partial/R.jsonl, one file
per process, gains one line per finished batch. Lines name rows of the sorted list of images, so any number of
processes can go on from them.
"""

import contextlib
import json
import logging
import os
import platform
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, Any, NamedTuple

import cv2
import numpy as np
import PIL
import torch

from data.sources.dealt import Deal
from data.tables.names import Names
from jobs.journal_lines import JournalLine, Progress, lines_of, sealed
from utils import distributed
from utils.errors import DataError
from utils.files import FolderLock, atomic_write, make_folder, writing
from utils.present import present
from utils.requests import first_difference

logger = logging.getLogger(__name__)

RUN_FILE = "run.json"
PARTIAL = "partial"


class Share(NamedTuple):
    """What is left of the work."""

    firsts: np.ndarray
    """(B,) int64 first rows of the batches that are this process's."""
    ends: np.ndarray
    """(B,) int64 rows behind the last of each."""
    rows: int
    """Number of rows in the batches of all processes."""


class Journal:
    """Own run.json and the partial results of one folder; `request` decides whether earlier work goes on."""

    def __init__(self, folder: str | Path, request: dict[str, Any], count: int, width: int = 1):
        """Take the output folder, all that decides the results as JSON values, and `width` numbers per row."""
        self.folder = make_folder(folder, "base.save_path")
        self.request = json.loads(json.dumps(request))
        self.count, self.width = count, width
        self.several = False
        """Whether a row may have more than one record of `width` numbers."""
        self._lock: FolderLock | None = None
        self._stream: IO[bytes] | None = None

    @property
    def partial(self) -> Path:
        """Return the folder of what is needed only until the work is finished."""
        return self.folder / PARTIAL

    def open(self, outputs: Sequence[str] = ()) -> None:
        """Go on with the unfinished work of the same request, or start anew without `outputs`; log which.

        All processes call it; the first one decides, the others check that they were asked the same.
        """
        if distributed.is_main():
            with self.saving():
                logger.info(self._start(outputs))
        distributed.barrier()
        self._check_same()

    def progress(self) -> Progress:
        """Read the partial results of all processes."""
        progress = Progress(self.count, self.width, self.several)
        for path in self._partial_files():
            for line in lines_of(path):
                progress.add(line)
        return progress

    def result(self, deal: Deal | None = None) -> Progress:
        """Return the results of all processes; DataError when a row is missing, as after the death of one.

        Of containers that were dealt to the processes, the first one has them in the order of the names.
        """
        progress = self.progress()
        if missing := np.count_nonzero(~progress.done):
            raise DataError(
                f"{self.folder}: {missing} of {self.count} images were reached by no process; run again to go on"
            )
        return progress if deal is None or deal.sorted is None else progress.arranged(deal.sorted.rows)

    def share(self, size: int, deal: Deal | None = None) -> Share:
        """Deal out the batches of `size` rows that are left, to each process in turn; all of them call this.

        Of containers that were dealt to the processes, each gets the batches of its own.
        """
        begins = np.array([0, self.count]) if deal is None else deal.begins
        firsts = self.progress().left(size, begins)
        distributed.barrier()  # nobody writes before everybody has read
        part = np.searchsorted(begins, firsts, side="right") - 1
        ends = np.minimum(firsts + size, begins[part + 1])
        mine = slice(distributed.rank(), None, distributed.world_size())
        if deal is not None and deal.is_parted:
            mine = deal.owners[part] == distributed.rank()
        return Share(firsts[mine], ends[mine], int((ends - firsts).sum()))

    def append(self, line: JournalLine) -> None:
        """Write down one finished batch."""
        path = self.partial / f"{distributed.rank()}.jsonl"
        with self.saving(), writing(path):
            if self._stream is None:
                self._stream = _open_behind_whole_lines(path)
            self._stream.write(sealed(line.model_dump_json().encode()))
            self._stream.flush()

    def forget(self) -> None:
        """Start the work of all processes anew; nothing may be written yet."""
        for path in self._partial_files():
            path.unlink(missing_ok=True)

    def finish(self, facts: dict[str, Any]) -> None:
        """Mark the work as finished, with `facts` about it and the versions used, and remove the partial results.

        Until they are gone no other run may begin there.
        """
        self._close_lines()
        with self.saving():
            self._write({"status": "finished", **facts, "versions": versions(), "request": self.request})
        present(self._lock).remove_folder()

    def close(self) -> None:
        """Close the files; the work may go on later."""
        self._close_lines()
        if self._lock is not None:
            self._lock.close()
            self._lock = None

    def _close_lines(self) -> None:
        if self._stream is not None:
            with contextlib.suppress(OSError):  # a full disk was reported when the line was written
                self._stream.close()
            self._stream = None

    @contextlib.contextmanager
    def saving(self) -> Iterator[None]:
        """Turn a disk that is full or read-only into one sentence."""
        try:
            yield
        except OSError as error:
            raise DataError(
                f"{error.filename or self.folder}: cannot be written ({error.strerror}); free space or give the "
                "permission and run again to go on, what is finished is kept"
            ) from error

    def _start(self, outputs: Sequence[str]) -> str:
        self._lock = FolderLock(self.partial, self.folder)
        reason = self._why_anew(self._read())
        if reason is None:
            return f"goes on with the unfinished run in {self.folder}"
        for path in [*self._partial_files(), *(self.folder / name for name in outputs)]:
            path.unlink(missing_ok=True)
        self._write({"status": "unfinished", "request": self.request})
        return reason

    def _check_same(self) -> None:
        old = self._read()
        if old is None:
            raise DataError(f"{self.folder}: no {RUN_FILE} of the first process; all must write to one shared folder")
        if difference := first_difference(old["request"], self.request):
            raise DataError(f"{self.folder}: the processes disagree on {difference[0]}; give all the same files")

    def _why_anew(self, old: dict[str, Any] | None) -> str | None:
        if old is None:
            return f"starts a new run in {self.folder}"
        if old.get("status") != "unfinished":
            return f"replaces the finished run in {self.folder}"
        if difference := first_difference(old["request"], self.request):
            return f"starts anew: the unfinished run in {self.folder} differs in {difference[0]}"
        return None

    def _read(self) -> dict[str, Any] | None:
        """Return run.json, None where there is none or it says nothing sensible."""
        try:
            content = json.loads((self.folder / RUN_FILE).read_text(encoding="utf-8"))
        except (OSError, ValueError, RecursionError):
            return None
        return content if isinstance(content, dict) and isinstance(content.get("request"), dict) else None

    def _write(self, content: dict[str, Any]) -> None:
        with atomic_write(self.folder / RUN_FILE, "w") as stream:
            json.dump(content, stream, indent=2)
            stream.write("\n")

    def _partial_files(self) -> list[Path]:
        return sorted(self.partial.glob("*.jsonl"))


def list_of_images(location: str, names: Names, deal: Deal | None = None) -> dict[str, Any]:
    """Return the part of a request that says which images; their contents have no part in it.

    Where containers were dealt to the processes, only the first one knows the names of all, and all of them call this.
    """
    if deal is None:
        return {"folder": os.path.abspath(location), "count": len(names), "sha256": names.digest()}
    found = deal.sorted
    files = None if found is None else {**list_of_images(location, found.names), "containers": deal.digest}
    return present(distributed.from_main(files))


def versions() -> dict[str, str]:
    """Return the versions of what decides pixels and scores."""
    packages = {"torch": torch, "numpy": np, "opencv": cv2, "pillow": PIL}
    return {"python": platform.python_version(), **{name: module.__version__ for name, module in packages.items()}}


def _open_behind_whole_lines(path: Path) -> IO[bytes]:
    """Open a file to append lines; one that a kill cut off is closed."""
    stream = open(path, "ab+")
    if stream.seek(0, os.SEEK_END) and (stream.seek(-1, os.SEEK_END), stream.read(1))[1] != b"\n":
        stream.write(b"\n")
    return stream
