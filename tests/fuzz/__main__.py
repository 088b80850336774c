"""Read N mutated files and kill the long commands N / 2,000 times: python -m tests.fuzz N [SEED].

What is read wrongly is kept in runs/fuzz; then, and where a kill leaves its mark, the exit code is 1.
"""

import itertools
import os
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tests.fuzz.kills import COMMANDS, killed
from tests.fuzz.kinds import KINDS
from tests.fuzz.running import Finding, content_of, counts, findings, folder_of
from tests.helpers.processes import forkserver

PLACE = Path("runs/fuzz")
INPUTS_PER_KILL = 2000
KILLS_PER_END = 4
_SHOWN = 5
"""Findings of one kind that are kept."""


def main() -> int:
    """Read the files in one process per core; say what each kind gave."""
    total = int(sys.argv[1])
    seed = int(sys.argv[2]) if len(sys.argv) > 2 else time.time_ns() % 1_000_000
    sys.stdout.write(f"{total} inputs of {len(KINDS)} kinds, seed {seed}\n")
    each, started = counts(total), time.monotonic()

    def run(kind: str) -> list[Finding]:
        found = list(findings(forkserver(), kind, seed, each[kind]))
        sys.stdout.write(
            f"{kind}: {each[kind]} inputs, {len(found)} read wrongly, {time.monotonic() - started:.0f} s\n"
        )
        sys.stdout.flush()
        return found

    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        found = list(itertools.chain.from_iterable(pool.map(run, KINDS)))
    for kind in KINDS:
        for one in [one for one in found if one.kind == kind][:_SHOWN]:
            path = PLACE / folder_of(kind) / f"{seed}-{one.number}{KINDS[kind].suffix}"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content_of(kind, seed, one.number))
            sys.stdout.write(f"{path}: {one.problem}\n")
    sys.stdout.write(f"{sum(each.values())} inputs, {len(found)} read wrongly\n")
    marks = [mark for name in COMMANDS for mark in kill(name, seed, max(1, total // (len(COMMANDS) * INPUTS_PER_KILL)))]
    return 1 if found or marks else 0


def kill(name: str, seed: int, kills: int) -> list[str]:
    """Kill a command so often, a few times on the way to each end; return what is wrong."""
    found = []
    for start in range(0, kills, KILLS_PER_END):
        with tempfile.TemporaryDirectory() as folder:
            problem = killed(Path(folder), name, seed + start, min(KILLS_PER_END, kills - start))
        found += [f"{name}, seed {seed + start}: {problem}"] if problem else []
    sys.stdout.write("\n".join([f"{name}: {kills} kills, {len(found)} left a mark", *found, ""]))
    return found


if __name__ == "__main__":
    sys.exit(main())
