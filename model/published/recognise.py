"""Tell a published network by the keys and shapes of its file."""

from collections.abc import Mapping
from functools import cache

import torch
from torch import Tensor

from model.published.presets import PRESETS, Preset
from model.registry import NetworkBuilder, build_head
from model.weights import LAYOUTS, SplitState, cuts
from utils.config.sections import ModuleSpec


def recognise(state: Mapping[str, Tensor]) -> str | None:
    """Return the name of the preset that has exactly these keys and shapes; None for no or another network."""
    splits: dict[str, list[SplitState]] = {layout.name: [] for layout in LAYOUTS}
    for layout in LAYOUTS:
        splits[layout.name] += cuts(state, layout)
    for name, preset in PRESETS.items():
        if preset.module is not None and any(_is(split, preset) for split in splits[preset.layout]):
            return name
    return None


def _is(split: SplitState, preset: Preset) -> bool:
    backbone = {key: tuple(tensor.shape) for key, tensor in split.backbone.items() if not _is_counter(key)}
    head = {key: tuple(tensor.shape) for key, tensor in split.head.items()}
    if split.rest or len(backbone) != preset.tensors or bool(head) != (preset.head is not None):
        return False
    if backbone != _shapes(preset.module or "", tuple(sorted(preset.params.items()))):
        return False
    width = 512 if preset.head is None else preset.head.params.get("in_dim", 512)
    return preset.head is None or head == {
        k: tuple(t.shape) for k, t in build_head(preset.head, width).state_dict().items()
    }


@cache
def _shapes(module: str, params: tuple) -> dict[str, tuple[int, ...]]:
    """Return the shapes of a backbone, which is built without memory for its weights."""
    with torch.device("meta"):
        state = NetworkBuilder().backbone(ModuleSpec(module=module, params=dict(params))).state_dict()
    return {key: tuple(tensor.shape) for key, tensor in state.items() if not _is_counter(key)}


def _is_counter(key: str) -> bool:
    return key.endswith("num_batches_tracked")
