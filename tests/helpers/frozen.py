"""Networks as evaluations load them, two crops, and the input that these are to a network."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from model.frozen.describe import Described
from model.frozen.load import NetworkLoader
from model.frozen.network import FrozenNetwork
from model.registry import NetworkBuilder
from utils.allowed import AllowedModules
from utils.config.sections import ModelConfig, NetworkKeys

CPU = torch.device("cpu")
CROPS = torch.randint(0, 256, (2, 112, 112, 3), generator=torch.Generator().manual_seed(4), dtype=torch.uint8)
CROPS[1] = (CROPS[1] // 4 + torch.arange(112)[:, None, None]).to(torch.uint8)


def network(
    weight: Path, scores: bool = True, allowed: Sequence[str] = (), model: ModelConfig | None = None, **keys
) -> FrozenNetwork:
    """Load the network of a weights file for scores or for embeddings; `keys` are those of its section."""
    described = Described(str(weight), NetworkKeys(**keys), model)
    loader = NetworkLoader(NetworkBuilder(AllowedModules(tuple(allowed))), CPU)
    return loader.load(described.scorer() if scores else described.network())


def network_input(mean: float | np.ndarray = 0.5, std: float = 0.5, channels: str = "RGB") -> torch.Tensor:
    """Return the crops as a network with this preprocessing gets them, worked out in float64."""
    x = (CROPS.numpy().astype(np.float64) / 255 - mean) / std
    return torch.from_numpy(x[..., :: 1 if channels == "RGB" else -1].copy()).permute(0, 3, 1, 2).float()
