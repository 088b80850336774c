"""What every label source is: a frozen network; crops and their names in, one quality per image out."""

import hashlib
from collections.abc import Iterator, Sequence
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from torch import Tensor

from model.frozen.network import FrozenNetwork
from utils.config.loading import StrictModel
from utils.config.sections import ModuleSpec


class LabelSource:
    """Give quality labels to aligned crops; higher = better for every source."""

    config: ClassVar[type[StrictModel] | None] = None
    """Its section of label_config.yaml, `source.NAME`; None: it has no settings."""
    range: ClassVar[str]
    """What values the labels can take."""
    trained: ClassVar[bool] = False
    """Whether its network is a trained quality model, backbone and head, read from `model.weight`."""
    head: ClassVar[ModuleSpec | None] = None
    """The quality head its weights have; None: the one of the model configuration."""
    looks_inside: ClassVar[bool] = False
    """Whether it needs the network's layers or gradients, which only a network in torch has."""
    own_weights: ClassVar[bool] = False
    """Whether its network may bring its weights itself."""
    quality: ClassVar[Literal["output"] | None] = None
    """Where its network keeps the quality, if it is not asked by embeddings or by a head."""
    draws_on_device: ClassVar[bool] = False
    """Whether the network's device makes random numbers; the CPU's are others than a GPU's."""
    remark: str = ""
    """One sentence the user should read once, or nothing."""

    def __init__(self, network: FrozenNetwork, cfg: Any = None, seed: int = 0, rows: int = 32):
        """Take the network, the settings, the seed of every draw and the most images a pass with gradients may hold."""
        self.network, self.cfg, self.seed, self.rows = network, cfg, seed, rows

    def scores(self, images_BHW3: Tensor, names: Sequence[str]) -> np.ndarray:
        """Return the labels (B,) float64 of uint8 crops; an image's label depends on no other image.

        Draws come from (seed, name), so neither batch nor order changes a label.
        """
        raise NotImplementedError


class PopulationSource(LabelSource):
    """Give labels that compare images with each other: embed everything first, then finish."""

    reason: ClassVar[str]
    """Why an image gets NaN, in a few words."""
    verbose: bool = True
    """Show a bar while comparing."""

    def embedding_dim(self) -> int:
        """Return D."""
        size = self.network.contract.size_px
        return self.network.embeddings(torch.zeros(1, size, size, 3, dtype=torch.uint8)).shape[1]

    def embed(self, images_BHW3: Tensor) -> np.ndarray:
        """Return the embeddings (B, D) float32 of uint8 crops."""
        return self.network.embeddings(images_BHW3)

    def finish(self, embeddings_ND: np.ndarray, identities: np.ndarray, names: Sequence[str]) -> np.ndarray:
        """Return the labels (N,) float64; NaN marks an image that `reason` says cannot be labelled."""
        raise NotImplementedError


def named_seed(seed: int, name: str) -> int:
    """Return 63 bits that depend on seed and name alone, the same in every process and version."""
    digest = hashlib.blake2b(f"{seed}\0{name}".encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1


def named_generator(seed: int, name: str, device: torch.device) -> torch.Generator:
    """Return the torch generator of one image."""
    return torch.Generator(device).manual_seed(named_seed(seed, name))


def pieces(total: int, size: int) -> Iterator[slice]:
    """Cut range(total) into consecutive slices of at most `size`, and at least one, items."""
    size = max(1, size)
    return (slice(start, start + size) for start in range(0, total, size))
