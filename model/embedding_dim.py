"""The number of values in a network's embedding, found by asking the network."""

import torch
from torch import Tensor, nn

from utils.errors import ConfigError, first_line


def embedding_dim(backbone: nn.Module, size_px: int = 112) -> int:
    """Return D of a backbone mapping (B, 3, size_px, size_px) to (B, D), by one forward pass that leaves no trace.

    Raises ConfigError when the backbone refuses such a batch or returns anything else.
    """
    name = type(backbone).__name__
    modes = {module: module.training for module in backbone.modules()}
    device = next((p.device for p in backbone.parameters()), torch.device("cpu"))
    backbone.eval()
    try:
        with torch.random.fork_rng(devices=[]), torch.no_grad():
            embedding = backbone(torch.zeros(1, 3, size_px, size_px, device=device))
    except Exception as error:  # a user's own network fails in its own ways
        raise ConfigError(
            f"{name}: fails on a batch of shape (1, 3, {size_px}, {size_px}): {first_line(error)}"
        ) from error
    finally:
        for module, mode in modes.items():
            module.training = mode
    if not isinstance(embedding, Tensor) or embedding.dim() != 2 or embedding.shape[0] != 1:
        found = f"shape {tuple(embedding.shape)}" if isinstance(embedding, Tensor) else f"a {type(embedding).__name__}"
        raise ConfigError(f"{name}: returns {found} for one image; a backbone must return embeddings of shape (1, D)")
    return embedding.shape[1]
