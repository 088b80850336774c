"""Scripts in processes of their own: forked, as torchrun starts them, killed without warning, on a full disk."""

import ctypes
import functools
import importlib
import itertools
import multiprocessing
import os
import resource
import runpy
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from multiprocessing.context import ForkServerContext
from pathlib import Path

import pytest
import torch

from tests.helpers.training import ROOT

IMPORTED = [
    "torch._dynamo", "matplotlib.figure", "matplotlib.backends.backend_agg", "train_main", "inference", "label",
    "evaluate", "prepare", "export", "tests.helpers.processes",
]  # fmt: skip
"""What every child needs and takes seconds of processor time to import; torch imports its _dynamo with an optimiser."""


def forkserver() -> ForkServerContext:
    """Return the context whose children find everything imported."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(IMPORTED)
    return context


class Child:
    """Run a script of the repository as a process, forked from one that has imported everything already.

    Its interface is that of subprocess.Popen, as far as it goes.
    """

    def __init__(
        self, script: str | Path, *arguments, environment: Mapping[str, str] = {}, first: Callable | None = None
    ):
        """Start `script`; `first` is called in the child before."""
        handle, self._errors = tempfile.mkstemp()
        os.close(handle)
        settings = dict(environment), torch.get_num_threads(), first
        self._process = forkserver().Process(
            target=_run, args=([str(script), *map(str, arguments)], self._errors, *settings)
        )
        self._process.start()

    @property
    def returncode(self) -> int | None:
        return self._process.exitcode

    def kill(self) -> None:
        os.kill(self._process.pid, signal.SIGKILL)

    def communicate(self, timeout: float = 300) -> tuple[None, str]:
        """Wait for its end and return what it said on standard error."""
        self._process.join(timeout)
        assert self._process.exitcode is not None, "the child did not end"
        said = Path(self._errors).read_text()
        Path(self._errors).unlink(missing_ok=True)
        return None, said


def _run(argv: list[str], errors: str, environment: dict[str, str], threads: int, first: Callable | None) -> None:
    with open(errors, "wb") as stream:
        os.dup2(stream.fileno(), 2)
    os.chdir(ROOT)
    os.environ.update(environment)
    torch.set_num_threads(threads)
    if first is not None:
        first()
    sys.argv = argv
    runpy.run_path(argv[0], run_name="__main__")


def finished(script: str | Path, *arguments, **options) -> tuple[int, str]:
    """Run a script to its end; return exit code and standard error."""
    child = Child(script, *arguments, **options)
    _, said = child.communicate()
    return child.returncode, said


def finished_in_two(script: str, *arguments, second: Callable | None = None) -> tuple[list[int], str]:
    """Run a script to its end in two processes that find each other as torchrun's do; return codes and errors.

    `second` is called in the second one before.
    """
    with socket.socket() as kept:  # bound, and so given to nobody else, until the end; the first child may listen on it
        kept.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        kept.bind(("localhost", 0))
        place = {"MASTER_ADDR": "localhost", "MASTER_PORT": str(kept.getsockname()[1]), "WORLD_SIZE": "2"}
        children = [
            Child(script, *arguments, environment={**place, "RANK": rank, "LOCAL_RANK": rank}, first=first)
            for rank, first in (("0", None), ("1", second))
        ]
        said = [child.communicate()[1] for child in children]
    return [child.returncode for child in children], "".join(said)


def torchrun(processes: int, script: str, *arguments: str, threads: int = 1) -> subprocess.Popen:
    """Start a script of the repository in several processes, as a user does."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(processes)]
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
    return subprocess.Popen(
        [*command, script, *map(str, arguments)], cwd=ROOT, stderr=subprocess.PIPE, text=True, env=environment
    )


APPEND = "jobs.journal:Journal.append"
SCALARS = "utils.training.run_log:RunLog.scalars"
"""What writes down a finished batch, and a finished training step."""


def killed(number: int, function: str, script: str, *arguments) -> None:
    """Run a script that is killed, without warning, behind call `number` of a function, however slow the machine is."""
    kill = functools.partial(at_call, number, function, functools.partial(send_self, signal.SIGKILL))
    code, said = finished(script, *arguments, first=kill)
    assert code == -signal.SIGKILL, said


def last_killed(number: int, function: str, script: str, *arguments, threads: int = 1) -> None:
    """Run a script in two processes of torchrun, the last one of which is killed as by `killed`; all end, in error."""
    dying = ROOT / "tests/helpers/dying.py"
    launcher = torchrun(2, str(dying), function, str(number), script, *arguments, threads=threads)
    said = launcher.communicate(timeout=300)[1]
    assert launcher.returncode != 0 and "SIGKILL" in said, said


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


def finished_on_disk(kind: str, folder: Path, script: str, *arguments) -> tuple[int, str]:
    """Run a script to its end while `folder` is a disk of its own; `kind`: ro (read-only) or size=BYTES."""
    folder.mkdir(exist_ok=True)
    code, said = finished(script, *arguments, first=functools.partial(_mount, kind, str(folder)))
    if code == NO_NAMESPACE:
        pytest.skip("needs a mount namespace")
    return code, said


NO_NAMESPACE = 77


def _mount(kind: str, folder: str) -> None:
    """Make `folder` a tmpfs that this process alone sees."""
    libc, user, group = ctypes.CDLL(None, use_errno=True), os.getuid(), os.getgid()
    new_user, new_mounts, read_only = 0x10000000, 0x00020000, 1
    try:
        if libc.unshare(new_user | new_mounts):
            raise OSError
        for name, text in (("setgroups", "deny"), ("uid_map", f"0 {user} 1"), ("gid_map", f"0 {group} 1")):
            Path(f"/proc/self/{name}").write_text(text)
        flags, data = (read_only, None) if kind == "ro" else (0, kind.encode())
        if libc.mount(b"none", folder.encode(), b"tmpfs", ctypes.c_ulong(flags), data):
            raise OSError
    except (OSError, AttributeError):
        os._exit(NO_NAMESPACE)


def limit_files(size: int) -> None:
    """Let no file of this process grow beyond `size` bytes."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))


def at_call(number: int, where: str, happens: Callable[[], object]) -> None:
    """Let something happen in this process behind call `number` of a function, named as `module:Class.method`."""
    module, _, path = where.partition(":")
    owner = importlib.import_module(module)
    *classes, name = path.split(".")
    for one in classes:
        owner = getattr(owner, one)
    real, calls = getattr(owner, name), itertools.count(1)

    @functools.wraps(real)
    def called(*arguments, **options):
        result = real(*arguments, **options)
        if next(calls) == number:
            happens()
        return result

    setattr(owner, name, called)


def send_self(number: int) -> None:
    """Send a signal to this very process."""
    os.kill(os.getpid(), number)


def send_family(number: int) -> None:
    """Send a signal to this process and to those it has started, as a scheduler does."""
    for child in multiprocessing.active_children():
        os.kill(child.pid, number)
    send_self(number)


def close_errors(kind: str) -> None:
    """Leave this process without standard error: `closed`, or a `pipe` whose reader has gone, or on a `full` disk."""
    if kind == "closed":
        os.close(2)
        sys.stderr = None
        return
    if kind == "full":
        writer = os.open("/dev/full", os.O_WRONLY)
    else:
        reader, writer = os.pipe()
        os.close(reader)
    os.dup2(writer, 2)
    os.close(writer)
