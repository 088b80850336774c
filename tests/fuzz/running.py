"""Reading mutated files in child processes that are used again and again, within limits of memory and time."""

import contextlib
import dataclasses
import os
import re
import resource
import signal
import tempfile
import time
import zlib
from collections.abc import Iterator
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np
import torch

from data.images.decode import ImageError
from tests.fuzz.kind import Kind
from tests.fuzz.kinds import KINDS
from utils.errors import UserError

LONGEST = 400
"""Characters of a sentence, without the folder."""
MEMORY_BYTES = 1 << 30
"""What reading one file may take on top of what the process has mapped."""
PROCESSOR_S = 5.0
"""Processor time for one file."""
_SILENCE_S = 120.0
"""After so long without a word a child is killed: it hangs where no signal is heard."""
_DEATHS = 20
"""Children of one kind that may die before the rest of its inputs is given up."""
FOUND = Path(__file__).parent / "found"
"""Files that once were read wrongly, each in the folder of its kind; the test reads them first."""


class _TooLong(BaseException):
    """Signal that a file takes too much processor time; no reader catches it."""


@dataclasses.dataclass(frozen=True)
class Finding:
    """One file that was read wrongly."""

    kind: str
    number: int
    """Number of the input; that of a kept file is below zero."""
    problem: str


def folder_of(kind: str) -> str:
    """Return the name of the folder of a kind."""
    return re.sub(r"\W+", "_", kind)


def kept(kind: str) -> list[bytes]:
    """Return the files of a kind that once were read wrongly."""
    place = FOUND / folder_of(kind)
    return [path.read_bytes() for path in sorted(place.iterdir())] if place.is_dir() else []


def content_of(kind: str, seed: int, number: int) -> bytes:
    """Return input `number` of a kind: the same for the same seed, on every machine."""
    files = kept(kind)
    if number < 0:
        return files[number + len(files)]
    rng = np.random.default_rng([seed, zlib.crc32(kind.encode()), number])
    whole = KINDS[kind].whole + [one for one in files if rng.random() < 0.1]
    start = whole[rng.integers(len(whole))]
    try:
        return KINDS[kind].mutate(start, rng)
    except Exception:  # a kept file need not be what a mutation of members or chunks expects
        return start[: rng.integers(len(start) + 1)]


def problem_of(kind: Kind, path: Path) -> str | None:
    """Read a file; return what is wrong with the way it was read."""
    started = time.process_time()
    try:
        kind.read(path)
    except UserError as error:
        said = str(error)  # never long, never several lines
        if path.stem not in said and path.parent.name not in said:
            return f"a sentence that does not name the file: {said[:200]}"
    except ImageError as error:
        if len(str(error)) > LONGEST:
            return f"a reason of {len(str(error))} characters"
    except _TooLong:
        return f"more than {PROCESSOR_S:g} s"
    except Exception as error:
        return _place(error)
    spent = time.process_time() - started
    return f"{spent:.1f} s" if spent > PROCESSOR_S else None


def _place(error: Exception) -> str:
    """Name an error and where it comes from."""
    frames, here = [], error.__traceback__
    while here is not None:
        frames.append(f"{Path(here.tb_frame.f_code.co_filename).name}:{here.tb_lineno}")
        here = here.tb_next
    try:
        said = str(error)[:120]
    except Exception:
        said = "?"
    return f"{type(error).__name__} ({said}) at {' > '.join(frames[-4:])}"


def work(pipe: Connection, kind: str, seed: int, numbers: range) -> None:
    """Read inputs of a kind; tell the parent each number before, and each problem after."""
    _silence()
    torch.set_num_threads(1)
    signal.signal(signal.SIGPROF, _give_up)
    with tempfile.TemporaryDirectory() as folder, contextlib.suppress(BrokenPipeError):
        path = Path(folder) / f"input{KINDS[kind].suffix}"
        path.write_bytes(KINDS[kind].whole[0])
        problem_of(KINDS[kind], path)  # what is imported on first use counts for no file
        mapped = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (mapped + MEMORY_BYTES, resource.RLIM_INFINITY))
        for number in numbers:
            path.write_bytes(content_of(kind, seed, number))
            pipe.send((number, None))
            signal.setitimer(signal.ITIMER_PROF, 2 * PROCESSOR_S)
            try:
                problem = problem_of(KINDS[kind], path)
            except _TooLong:
                problem = f"more than {PROCESSOR_S:g} s"
            finally:
                signal.setitimer(signal.ITIMER_PROF, 0)
            if problem is not None:
                pipe.send((number, problem))
    os._exit(0)


def _give_up(*_) -> None:
    raise _TooLong


def _silence() -> None:
    null = os.open(os.devnull, os.O_RDWR)
    for stream in (1, 2):
        os.dup2(null, stream)


def findings(context, kind: str, seed: int, count: int) -> Iterator[Finding]:
    """Read `count` inputs of a kind, and the kept ones; yield what is wrong."""
    left, deaths = range(-len(kept(kind)), count), 0
    while left and deaths < _DEATHS:
        ours, theirs = context.Pipe(duplex=False)
        child = context.Process(target=work, args=(theirs, kind, seed, left), daemon=True)
        child.start()
        theirs.close()
        last, silent = left[0] - 1, False
        with contextlib.suppress(EOFError):
            while not (silent := not ours.poll(_SILENCE_S)):
                last, problem = ours.recv()
                if problem is not None:
                    yield Finding(kind, last, problem)
        if silent:
            child.kill()
        child.join()
        ours.close()
        if child.exitcode == 0:
            return
        deaths += 1
        yield Finding(kind, last, f"hangs for {_SILENCE_S:g} s" if silent else f"the process died: {child.exitcode}")
        left = range(last + 1, count)


def counts(total: int) -> dict[str, int]:
    """Deal out inputs to the kinds."""
    shares = sum(kind.share for kind in KINDS.values())
    return {name: max(1, round(total * kind.share / shares)) for name, kind in KINDS.items()}
