"""What is trained: the optimiser's groups, and the gradients and BatchNorm modes that follow from them.

Trained, zeroed, unscaled, clipped and averaged parameters are one set; everything else holds no gradient.
"""

import difflib
import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import cast

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from utils.config.train import GroupConfig, OptimizerConfig
from utils.errors import ConfigError


@dataclass(frozen=True)
class Partition:
    """Hold the trained parameters, group by group, and the slice of the model they were taken from."""

    groups: list[dict]
    """Groups for the optimiser, with their parameters."""
    slice_ids: frozenset[int]
    """ids of all parameters in the slice, those the network fixes (features.weight) included."""
    clipped: list[nn.Parameter]
    """Parameters that count in the gradient norm and are scaled by it."""

    @property
    def trained(self) -> list[nn.Parameter]:
        """Return every trained parameter once."""
        return [parameter for group in self.groups for parameter in group["params"]]


def partition(parts: Mapping[str, nn.Module], model: nn.Module, config: OptimizerConfig) -> Partition:
    """Take each group's last `limit` tensors; switch gradients off for all other parameters of `model`.

    A parameter that a network itself fixes (requires_grad False when this is called) counts towards
    `limit` and stays fixed.
    """
    kind = optimizer_class(config.module)
    fixed = {id(p) for p in model.parameters() if not p.requires_grad}
    groups, slice_ids, clipped = [], set(), []
    for name, group in config.groups.items():
        if group.params not in parts:
            known = ", ".join(parts)
            raise ConfigError(f"optimizer.{name}.params: this method has no part {group.params!r}; known: {known}")
        parameters = list(parts[group.params].parameters())
        if group.limit is not None and group.limit > len(parameters):
            raise ConfigError(
                f"optimizer.{name}.limit: {group.params} has {len(parameters)} parameter tensors, not {group.limit}; "
                "set a lower one, or null to train all of them"
            )
        taken = parameters[-group.limit :] if group.limit else parameters
        if slice_ids & {id(p) for p in taken}:
            raise ConfigError(f"optimizer.{name}: a parameter of {group.params} is already in another group")
        slice_ids |= {id(p) for p in taken}
        trained = [p for p in taken if id(p) not in fixed]
        groups.append({"params": trained, "lr": group.lr, **_arguments(kind, name, group)})
        if group.clip:
            clipped += trained
    keep = {id(p) for group in groups for p in group["params"]}
    for parameter in model.parameters():
        parameter.requires_grad_(id(parameter) in keep)
    return Partition(groups, frozenset(slice_ids), clipped)


def optimizer_class(name: str) -> type[torch.optim.Optimizer]:
    """Resolve a dotted name to a class of torch.optim; nothing else can be named."""
    package, _, short = name.rpartition(".")
    kind = getattr(torch.optim, short, None) if package in ("", "torch.optim") else None
    if not (inspect.isclass(kind) and issubclass(kind, torch.optim.Optimizer)) or kind is torch.optim.Optimizer:
        raise ConfigError(f"optimizer.module: {name!r} is no optimiser of torch.optim; e.g. torch.optim.SGD")
    return kind


def _arguments(kind: type, name: str, group: GroupConfig) -> dict:
    known = set(inspect.signature(kind).parameters) - {"params", "lr"}
    extra = dict(group.model_extra or {})
    for key in extra:
        if key not in known:
            near = difflib.get_close_matches(key, known | set(GroupConfig.model_fields), 1, cutoff=0.6)
            hint = f"; did you mean {near[0]!r}?" if near else f"; known: lr, {', '.join(sorted(known))}"
            raise ConfigError(f"unknown key 'optimizer.{name}.{key}': {kind.__name__} does not take it{hint}")
    return {key: tuple(value) if isinstance(value, list) else value for key, value in extra.items()}


def build_optimizer(config: OptimizerConfig, groups: list[dict]) -> torch.optim.Optimizer:
    """Build the optimiser; each group remembers its base rate as `initial_lr`."""
    kind = cast(Callable[..., torch.optim.Optimizer], optimizer_class(config.module))
    groups = [group for group in groups if group["params"]]
    if config.fused and "fused" not in inspect.signature(kind).parameters:
        raise ConfigError(f"optimizer.fused: {config.module} has no fused form; use torch.optim.SGD, or set 0")
    fused = {"fused": True} if config.fused else {}
    try:
        for group in groups:
            kind(**group, **fused)  # as arguments they are checked, as groups they are not
        optimizer = kind([dict(group) for group in groups], **fused)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"optimizer: {config.module} refuses its arguments ({error})") from error
    for group in optimizer.param_groups:
        group["initial_lr"] = group["lr"]
    return optimizer


def set_lr(optimizer: torch.optim.Optimizer, factor: float) -> None:
    """Set every group's rate to its base rate times `factor`."""
    for group in optimizer.param_groups:
        group["lr"] = group["initial_lr"] * factor


def set_train_mode(model: nn.Module, config: OptimizerConfig, slice_ids: frozenset[int]) -> None:
    """Put `model` into train mode; which BatchNorms use batch statistics is `optimizer.freeze_bn`.

    1: those whose weight and bias are both in the optimiser's slice; 0: all, as released; "all": none.
    """
    model.train()
    if config.freeze_bn == 0:
        return
    for module in model.modules():
        if isinstance(module, _BatchNorm):
            owned = [p for p in (module.weight, module.bias) if p is not None]
            whole = bool(owned) and all(id(p) in slice_ids for p in owned)
            module.train(whole and config.freeze_bn == 1 and module.training)


def check_partition(model: nn.Module, trained: list[nn.Parameter]) -> None:
    """Raise RuntimeError unless the trained parameters are exactly those that require gradients."""
    ids = [id(p) for p in trained]
    if len(ids) != len(set(ids)) or set(ids) != {id(p) for p in model.parameters() if p.requires_grad}:
        raise RuntimeError("the optimiser's parameters and those that require gradients differ")
