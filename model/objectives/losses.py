"""Loss functions: those of torch.nn by their official names, and a ranking loss."""

import inspect

import torch
from torch import Tensor, nn
from torch.nn import functional

from utils.config.sections import ModuleSpec
from utils.errors import ConfigError


def build_loss(spec: ModuleSpec, **settled: str) -> nn.Module:
    """Build a loss of torch.nn from its dotted name, with what the method has settled; nothing else can be named."""
    package, _, name = spec.module.rpartition(".")
    kind = getattr(nn, name, None) if package in ("", "torch.nn") and name.endswith("Loss") else None
    if not (inspect.isclass(kind) and issubclass(kind, nn.Module)):
        raise ConfigError(f"loss: {spec.module!r} is no loss of torch.nn; e.g. torch.nn.SmoothL1Loss")
    try:
        return kind(**{**spec.params, **settled})
    except TypeError as error:
        raise ConfigError(f"loss: {spec.module} does not take these params ({error})") from error


class PairwiseRankingLoss(nn.Module):
    """Ask that qualities are ordered as their labels: RankNet's loss (Burges et al. 2005) over all pairs of a batch."""

    def __init__(self, scale: float = 0.1):
        """Use `scale`, the difference of qualities at which a pair begins to count as well ordered."""
        super().__init__()
        self.scale = scale

    def forward(self, quality_B: Tensor, label_B: Tensor) -> Tensor:
        """Return the mean over pairs with different labels; 0 where there is none."""
        order_BB = torch.sign(label_B[:, None] - label_B)
        wrong_BB = functional.softplus(-order_BB * (quality_B[:, None] - quality_B) / self.scale)
        counts_BB = order_BB.abs()
        return (wrong_BB * counts_BB).sum() / counts_BB.sum().clamp(min=1)
