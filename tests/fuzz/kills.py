"""SIGKILL at random moments: whatever was being done, the next run goes on and ends like one that nobody killed."""

import contextlib
import time
from pathlib import Path

import numpy as np

from tests.helpers.commands import evaluation, labels, landmarks, scores, training, written
from tests.helpers.processes import Child, finished
from tests.helpers.training import same_bytes, tensors

COMMANDS = {
    "training": (training, ("aikd-last.pth", "aikd-best.pth")),
    "scoring": (scores, ("quality-scores.csv", "quality-scores.pkl", "failures.csv")),
    "labelling": (labels, ("labels.csv", "labels.pkl", "failures.csv")),
    "detection": (landmarks, ("landmarks.csv", "failures.csv")),
    "evaluation": (evaluation, ("pauc.csv", "edc.csv")),
}
"""Name -> what it runs, and files that are the same after kills."""


def killed(folder: Path, name: str, seed: int, kills: int) -> str | None:
    """Kill a command so often, each time after a random part of the time it needs; return what is wrong in the end."""
    make, results = COMMANDS[name]
    command, rng = written(folder, make), np.random.default_rng([seed, len(name)])
    started = time.monotonic()
    code, said = finished(*command, f"base.save_path={folder / 'whole'}")
    needed = time.monotonic() - started
    if code != 0:
        return f"the run that nobody kills ends with {code}: {said[-300:]}"
    out = f"base.save_path={folder / 'out'}"
    for _ in range(kills):
        child = Child(*command, out)
        time.sleep(rng.uniform(0, needed))
        with contextlib.suppress(ProcessLookupError):  # it was faster this time
            child.kill()
        child.communicate()
    code, said = finished(*command, out)
    if code != 0 or "Traceback" in said:
        return f"the last run ends with {code}: {said[-300:]}"
    for result in results:
        if not _same(folder / "out" / result, folder / "whole" / result):
            return f"{result} is another one"
    left = [str(path.relative_to(folder)) for path in folder.rglob(".*")]
    return f"{left[0]} is left" if left else None


def _same(one: Path, other: Path) -> bool:
    if one.suffix == ".pth":
        return same_bytes(tensors(one), tensors(other))
    return one.read_bytes() == other.read_bytes()
