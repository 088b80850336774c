"""The weight average that is validated and saved."""

import copy

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm


class WeightAverage:
    """Average a network's trained tensors: avg + (1 - alpha) * (new - avg); a plain copy at the first update.

    Only trained parameters and the running statistics of BatchNorms in train mode are averaged, so
    untrained tensors keep their bytes; integer counters are copied. `network` holds the average, in
    evaluation mode, and is an ordinary module.
    """

    def __init__(self, source: nn.Module, alpha: float):
        self.network = copy.deepcopy(source).eval().requires_grad_(False)
        self.alpha = alpha
        self.updates = 0

    @torch.no_grad()
    def update(self, source: nn.Module) -> None:
        """Take in the present weights of `source`, whose BatchNorms must be in their training modes.

        Nothing is read back from the device.
        """
        target = self.network.state_dict()
        if self.updates == 0:
            for name, new in source.state_dict().items():
                target[name].copy_(new)
        else:
            averaged, copied = _moving(source)
            if self.alpha == 0:  # the weights themselves, to the bit
                copied |= averaged
            else:
                old = [target[name] for name in averaged]
                step = torch._foreach_sub(list(averaged.values()), old)  # pyright: ignore[reportPrivateImportUsage]
                torch._foreach_add_(old, step, alpha=1 - self.alpha)  # pyright: ignore[reportPrivateImportUsage]
            for name, new in copied.items():
                target[name].copy_(new)
        self.updates += 1

    def state_dict(self) -> dict:
        """Return the average and the number of updates."""
        return {"network": self.network.state_dict(), "updates": self.updates}

    def load_state_dict(self, state: dict) -> None:
        """Restore what state_dict gave."""
        self.network.load_state_dict(state["network"])
        self.updates = state["updates"]


def _moving(source: nn.Module) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    """Return what training changes, by name: numbers to average, and BatchNorms' counters."""
    averaged: dict[str, torch.Tensor] = {}
    averaged.update((name, parameter) for name, parameter in source.named_parameters() if parameter.requires_grad)
    copied: dict[str, torch.Tensor] = {}
    for prefix, module in source.named_modules():
        if isinstance(module, _BatchNorm) and module.training:
            for name, buffer in module.named_buffers(prefix, recurse=False):
                (averaged if buffer.is_floating_point() else copied)[name] = buffer
    return averaged, copied
