"""Devices and number formats: one autocast, one loss scaler, none inside the networks."""

import contextlib
import re
from typing import Any

import torch
from torch import Tensor, nn

from utils.config.train import ScalerConfig, TrainBase
from utils.errors import ConfigError


def pick_device(name: str, key: str = "base.device") -> torch.device:
    """Return the device of that name, or raise ConfigError when this machine lacks it."""
    if name == "cpu":
        return torch.device("cpu")
    if not re.fullmatch(r"cuda(:\d+)?", name):
        raise ConfigError(f"{key}: {name!r} is no device; use cpu, cuda or cuda:N")
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    index = int(name.partition(":")[2] or 0)
    if index >= count:
        raise ConfigError(f"{key}: {name} is not on this machine ({count} CUDA devices); set {key}=cpu or another one")
    return torch.device("cuda", index)


def to_device(batch: Any, device: torch.device) -> Any:
    """Move the tensors of a batch (a NamedTuple); copies from pinned memory overlap with compute."""
    return type(batch)(*(x.to(device, non_blocking=True) if isinstance(x, Tensor) else x for x in batch))


class Precision:
    """Run forward passes in the fastest safe format and step through a loss scaler where fp16 needs it.

    base.amp acts on CUDA only: bf16 where the device has it, else fp16; other devices compute in fp32. Any
    base.precision but auto overrides it; ConfigError for fp16 on a device that is no CUDA device.
    """

    def __init__(self, device: torch.device, base: TrainBase, scaler: ScalerConfig, growth_interval: int):
        self.device = device
        self.dtype: torch.dtype | None = None
        if base.precision == "fp16" and device.type != "cuda":
            raise ConfigError(f"base.precision: fp16 needs a CUDA device, not {device}; use bf16 or fp32")
        if base.precision != "auto":
            self.dtype = {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}[base.precision]
        elif base.amp and device.type == "cuda":
            self.dtype = torch.bfloat16 if torch.cuda.is_bf16_supported(False) else torch.float16
        params = {"growth_interval": max(1, growth_interval), **scaler.params}
        params["growth_interval"] = int(params["growth_interval"])
        try:
            self.scaler = torch.amp.GradScaler(device.type, enabled=self.dtype is torch.float16, **params)
        except TypeError as error:
            raise ConfigError(f"grad_scaler.params: {error}") from error

    @property
    def name(self) -> str:
        """Return bf16, fp16 or fp32."""
        return "fp32" if self.dtype is None else {torch.bfloat16: "bf16", torch.float16: "fp16"}[self.dtype]

    def autocast(self) -> contextlib.AbstractContextManager:
        """Return the context of forward passes."""
        if self.dtype is None:
            return contextlib.nullcontext()
        return torch.autocast(self.device.type, self.dtype)

    def backward_and_step(
        self, loss: Tensor, optimizer: torch.optim.Optimizer, clipped: list[nn.Parameter], max_norm: float | None
    ) -> Tensor:
        """Differentiate, unscale, clip the global norm of `clipped`, step; return the norm before clipping."""
        optimizer.zero_grad(set_to_none=True)
        self.scaler.scale(loss).backward()
        self.scaler.unscale_(optimizer)
        norm = nn.utils.clip_grad_norm_(clipped, float("inf") if max_norm is None else max_norm)
        self.scaler.step(optimizer)
        self.scaler.update()
        return norm

    def state_dict(self) -> dict:
        """Return the scaler's state."""
        return self.scaler.state_dict()

    def load_state_dict(self, state: dict) -> None:
        """Restore the scaler's state."""
        if state:
            self.scaler.load_state_dict(state)
