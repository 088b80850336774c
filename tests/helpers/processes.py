"""Runs of several processes as torchrun starts them, the sudden death of one, and runs on a disk that fills up."""

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.helpers.training import ROOT


def torchrun(processes: int, script: str, *arguments: str, threads: int = 1) -> subprocess.Popen:
    """Start a script of the repository in several processes."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(processes)]
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
    return subprocess.Popen(
        [*command, script, *map(str, arguments)], cwd=ROOT, stderr=subprocess.PIPE, text=True, env=environment
    )


def kill_the_last(launcher: subprocess.Popen, log: Path, lines: int) -> None:
    """Kill the last process, without warning, once `log` has so many lines; wait until all have ended, in error."""
    deadline = time.monotonic() + 300
    while not (log.exists() and log.read_bytes().count(b"\n") >= lines) and time.monotonic() < deadline:
        assert launcher.poll() is None, launcher.communicate()[1]
        time.sleep(0.001)
    children = Path(f"/proc/{launcher.pid}/task/{launcher.pid}/children").read_text().split()
    os.kill(int(children[-1]), signal.SIGKILL)
    launcher.communicate(timeout=300)
    assert launcher.returncode != 0, "the run ended before one process could be killed"


HOLD_LOCK = "import fcntl, sys; f = open(sys.argv[1], 'wb'); fcntl.lockf(f, fcntl.LOCK_EX); print('held'); input()"


@contextmanager
def held_lock(path: Path) -> Iterator[None]:
    """Let another process hold the lock of a file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-c", HOLD_LOCK, str(path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout.readline() == "held\n"
        yield
        holder.communicate("\n")


def run_on_disk(kind: str, folder: Path, script: str, *arguments: str) -> subprocess.CompletedProcess:
    """Run a script of the repository while `folder` is a disk of its own; `kind`: ro (read-only) or size=BYTES."""
    folder.mkdir(exist_ok=True)
    mounted = 'mount -t tmpfs -o "$1" none "$2" && shift 2 && exec "$@"'
    command = ["unshare", "--map-root-user", "--mount", "sh", "-c", mounted, "sh", kind, str(folder)]
    options = {"cwd": ROOT, "capture_output": True, "text": True, "timeout": 300}
    if shutil.which("unshare") is None or subprocess.run([*command, "true"], **options).returncode:
        pytest.skip("needs a mount namespace")
    return subprocess.run([*command, sys.executable, script, *map(str, arguments)], **options)
