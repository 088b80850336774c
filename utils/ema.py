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
        """Take in the present weights of `source`, whose BatchNorms must be in their training modes."""
        averaged = _averaged_names(source)
        target = self.network.state_dict()
        for name, new in source.state_dict().items():
            old = target[name]
            if self.updates == 0 or self.alpha == 0 or name not in averaged:
                if not torch.equal(old, new):
                    old.copy_(new)
            else:
                old.add_(new - old, alpha=1 - self.alpha)
        self.updates += 1

    def state_dict(self) -> dict:
        """Return the average and the number of updates."""
        return {"network": self.network.state_dict(), "updates": self.updates}

    def load_state_dict(self, state: dict) -> None:
        """Restore what state_dict gave."""
        self.network.load_state_dict(state["network"])
        self.updates = state["updates"]


def _averaged_names(source: nn.Module) -> set[str]:
    names = {name for name, parameter in source.named_parameters() if parameter.requires_grad}
    for prefix, module in source.named_modules():
        if isinstance(module, _BatchNorm) and module.training and module.track_running_stats:
            names |= {f"{prefix}.running_mean".lstrip("."), f"{prefix}.running_var".lstrip(".")}
    return names
