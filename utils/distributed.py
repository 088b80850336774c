"""Processes started by torchrun; a single process needs nothing."""

import datetime
import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.distributed as dist


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
    if world_size() > 1:
        dist.barrier()


@contextmanager
def process_group(device: torch.device, patience_h: float = 0.5) -> Iterator[None]:
    """Join the group torchrun prepared (nccl on CUDA, gloo elsewhere) and leave it at the end.

    A process that waits for the others longer than `patience_h` gives up.
    """
    if not launched() or dist.is_initialized():
        yield
        return
    backend = "nccl" if device.type == "cuda" else "gloo"
    dist.init_process_group(backend, timeout=datetime.timedelta(hours=patience_h))
    try:
        yield
    finally:
        dist.destroy_process_group()


def local_device(name: str) -> str:
    """Return the device name of this process: cuda becomes cuda:LOCAL_RANK under torchrun."""
    if launched() and name.startswith("cuda"):
        return f"cuda:{os.environ.get('LOCAL_RANK', 0)}"
    return name


def wrap(module: torch.nn.Module, device: torch.device) -> torch.nn.Module:
    """Average gradients over the processes; a single process gets the module itself."""
    if world_size() == 1:
        return module
    return torch.nn.parallel.DistributedDataParallel(
        module, device_ids=[device] if device.type == "cuda" else None, broadcast_buffers=False
    )
