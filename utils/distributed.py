"""Processes started by torchrun; a single process needs nothing.

A step belongs to all processes together: each takes its part of the batch, gradients and logged losses are means over
all samples, the first process writes. Tensors on the CPU travel by gloo, those on a GPU by nccl.
"""

import datetime
import inspect
import os
import time
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

Terms = TypeVar("Terms", bound=tuple)
Value = TypeVar("Value")


def launched() -> bool:
    """Tell whether torchrun started this process."""
    return "RANK" in os.environ and "WORLD_SIZE" in os.environ


def rank() -> int:
    """Return this process's number, 0 for a single one."""
    return dist.get_rank() if dist.is_available() and dist.is_initialized() else 0


def world_size() -> int:
    """Return the number of processes."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def is_main() -> bool:
    """Tell whether this process writes files and prints."""
    return rank() == 0


def barrier() -> None:
    """Wait for all processes."""
    total(0)


def total(value: int) -> int:
    """Return the sum of all processes' values; waits for all."""
    if world_size() == 1:
        return int(value)
    values = torch.tensor([int(value)])
    dist.all_reduce(values)
    return int(values)


def from_main(value: Value) -> Value:
    """Return the first process's value; waits for it."""
    if world_size() == 1:
        return value
    values = [value]
    dist.broadcast_object_list(values, 0)
    return values[0]


def from_each(value: Value) -> list[Value]:
    """Return the values of all processes, in their order; waits for all."""
    if world_size() == 1:
        return [value]
    values: list[Any] = [None] * world_size()
    dist.all_gather_object(values, value)
    return values


@contextmanager
def process_group(device: torch.device, patience_h: float = 0.5) -> Iterator[None]:
    """Join the group torchrun prepared and leave it at the end; `device` is where tensors to be exchanged are.

    A process that waits for the others longer than `patience_h` gives up.
    """
    if not launched() or dist.is_initialized():
        yield
        return
    if device.type == "cuda":
        torch.cuda.set_device(device)
    backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
    dist.init_process_group(backend, timeout=datetime.timedelta(hours=patience_h))
    done = False
    try:
        yield
        done = True
    finally:
        if done or backend == "gloo":  # nccl would wait for processes that will never come
            dist.destroy_process_group()


def patient_group() -> AbstractContextManager[None]:
    """Join the group for work in which processes only wait for each other, for as long as it takes."""
    return process_group(torch.device("cpu"), patience_h=24 * 365)


def local_device(name: str) -> str:
    """Return the device name of this process: cuda becomes cuda:LOCAL_RANK under torchrun."""
    if launched() and name.startswith("cuda"):
        return f"cuda:{os.environ.get('LOCAL_RANK', 0)}"
    return name


def wrap(module: nn.Module, device: torch.device) -> nn.Module:
    """Average gradients over the processes; a single process gets the module itself.

    On CUDA, BatchNorms in train mode share their batch statistics. On a CPU each process has those of its own part,
    and the running ones of the first process are kept (same_buffers). Names in the state_dict stay.
    """
    if world_size() == 1:
        return module
    if device.type == "cuda":
        share_statistics(module)
    kind = nn.parallel.DistributedDataParallel
    newer = "forward_sync_buffers" in inspect.signature(kind).parameters
    buffers: dict[str, Any] = {"forward_sync_buffers" if newer else "broadcast_buffers": False}
    return kind(module, device_ids=[device] if device.type == "cuda" else None, **buffers)


def share_statistics(module: nn.Module) -> None:
    """Replace every BatchNorm in train mode by one whose batch is that of all processes; parameters are the same."""
    for parent in list(module.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, _BatchNorm) and child.training:
                setattr(parent, name, nn.SyncBatchNorm.convert_sync_batchnorm(child))


def same_buffers(*modules: nn.Module) -> None:
    """Give all processes the first one's buffers: running statistics may have drifted apart."""
    if world_size() > 1:
        for module in modules:
            for buffer in module.buffers():
                dist.broadcast(buffer, 0)


def balance(terms: Terms, count: int) -> Terms:
    """Scale the mean losses of `count` samples so that their mean over the processes is that over all samples."""
    if world_size() == 1:
        return terms
    everything = torch.full((), float(count), device=terms[0].device)
    dist.all_reduce(everything)
    return type(terms)(*(term * (count * world_size() / everything) for term in terms))


def average(terms: Terms) -> Terms:
    """Return the means of scalar tensors over the processes, without gradient."""
    if world_size() == 1:
        return terms
    values = torch.stack([term.detach().float() for term in terms])
    dist.all_reduce(values)
    return type(terms)(*(values / world_size()))


def summed(*values: Tensor) -> tuple[Tensor, ...]:
    """Return the sums of CPU tensors over the processes."""
    if world_size() > 1:
        for value in values:
            dist.all_reduce(value)
    return values


def gather(values: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Join per-sample tensors of all processes, which have `row` among them, and sort them by it; all on the CPU."""
    if world_size() == 1:
        return dict(values)
    parts: list = [None] * world_size()
    dist.all_gather_object(parts, dict(values))
    parts = [part for part in parts if part]
    if not parts:
        return {}
    order = torch.argsort(torch.cat([part["row"] for part in parts]), stable=True)
    return {name: torch.cat([part[name] for part in parts])[order] for name in parts[0]}


def first_to_fail() -> bool:
    """Tell whether no other process has reported an error yet, and from now on this one has."""
    return _failures(1) <= 1


def failed_elsewhere(error: Exception, patience_s: float = 5.0) -> bool | None:
    """Tell whether a lost connection follows from an error that another process has reported.

    None: `error` is about no connection at all.
    """
    names = ("gloo", "NCCL", "Connection", "connection")
    if not launched() or not (isinstance(error, dist.DistError) or any(name in str(error) for name in names)):
        return None
    end = time.monotonic() + patience_s
    while not (reported := _failures(0) > 0) and time.monotonic() < end:
        time.sleep(0.1)
    return reported


def _failures(more: int) -> int:
    """Count the reported errors of this run, `more` of them new, in the store torchrun keeps while processes end."""
    if not launched() or os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True":
        return more
    try:
        place = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
        wait = datetime.timedelta(seconds=10)
        store = dist.TCPStore(*place, is_master=False, timeout=wait)  # pyright: ignore[reportPrivateImportUsage]
        return store.add(f"ai_kd/failures/{os.environ.get('TORCHELASTIC_RESTART_COUNT', 0)}", more)
    except (KeyError, ValueError, RuntimeError):  # no store, or it is gone: then everyone speaks for himself
        return more
