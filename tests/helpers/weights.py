"""Weights of a tiny student: filled, saved, compared, refused."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from model.mlp import MLP
from model.weights import load_backbone
from tests.helpers.networks import TinyBackbone
from utils.errors import WeightsError

State = dict[str, torch.Tensor]


class Student(torch.nn.Module):
    """The two attributes that load_student asks for."""

    def __init__(self, head: torch.nn.Module | None = None):
        super().__init__()
        self.feature_extractor = TinyBackbone()
        self.quality_head = head if head is not None else MLP(in_dim=8, hidden_dim=4)


def randomised(module: torch.nn.Module) -> torch.nn.Module:
    """Give every floating value of `module` its own number, buffers too."""
    generator = torch.Generator().manual_seed(5)
    for value in module.state_dict().values():
        if value.is_floating_point():
            value.copy_(torch.rand(value.shape, generator=generator) + 0.1)
    return module


def saved(path: Path, state: object) -> Path:
    """Save by torch.save; return the path."""
    torch.save(state, path)
    return path


def prefixed(state: State, prefix: str) -> State:
    """Return copies of the tensors under longer names."""
    return {prefix + key: value.clone() for key, value in state.items()}


def same(module: torch.nn.Module, state: State) -> bool:
    """Tell whether a module holds these tensors and no others."""
    own = module.state_dict()
    return own.keys() == state.keys() and all(torch.equal(own[key], state[key]) for key in own)


def refused(path: Path, module: torch.nn.Module | None = None, loader: Callable = load_backbone) -> str:
    """Return the sentence with which `path` is refused; the module must keep its values."""
    module = module if module is not None else TinyBackbone()
    before = {key: value.clone() for key, value in module.state_dict().items()}
    with pytest.raises(WeightsError) as error:
        loader(module, path)
    message = str(error.value)
    assert same(module, before)
    assert message.startswith(str(path)) and "\n" not in message and not message.endswith(".")
    return message
