"""Loss functions by their official names."""

import inspect

from torch import nn

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
