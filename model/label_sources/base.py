"""What every label source is: a frozen network; crops and their keys in, one quality per image out."""

import hashlib
from collections.abc import Iterator, Sequence
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from model.frozen.preprocess import normalise
from utils.contract import InputContract


class FrozenNetwork:
    """Hold a network in evaluation mode with its preprocessing; no gradient reaches its parameters."""

    remark: str = ""
    """One sentence about weights and preprocessing the user should read once, or nothing."""

    def __init__(self, module: nn.Module, contract: InputContract, device: torch.device, rows: int = 32):
        """Move `module` to the device. `rows` is the most images one pass with gradients may hold."""
        self.module = module.eval().requires_grad_(False).to(device, memory_format=torch.channels_last)
        self.contract, self.device, self.rows = contract, device, rows
        if device.type == "cuda":  # TF32 would let a label depend on the batch
            torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False

    @property
    def name(self) -> str:
        """Return what messages call the network."""
        return type(self.module).__name__

    def prepare(self, images_BHW3: Tensor) -> Tensor:
        """Turn uint8 crops into network input (B, 3, S, S) on the device."""
        return normalise(images_BHW3, self.contract, self.device)

    def embed(self, x_BCHW: Tensor) -> Tensor:
        """Map network input to embeddings (B, D) float32, gradients allowed."""
        output = self.module(x_BCHW)
        return (output[0] if isinstance(output, tuple | list) else output).float()

    def blank(self, count: int) -> Tensor:
        """Return `count` grey inputs, for passes that only look at the network."""
        return torch.zeros(count, 3, self.contract.size_px, self.contract.size_px, device=self.device)


class LabelSource:
    """Give quality labels to aligned crops; higher = better for every source."""

    name: ClassVar[str]
    """Its name in `source.name`."""
    range: ClassVar[str]
    """What values the labels can take."""
    needs: ClassVar[str]
    """What the network or the folder must offer beyond embeddings."""
    draws_on_device: ClassVar[bool] = False
    """Whether the network's device makes random numbers; the CPU's are others than a GPU's."""
    remark: str = ""
    """One sentence the user should read once, or nothing."""

    def __init__(self, network: FrozenNetwork):
        self.network = network

    def scores(self, images_BHW3: Tensor, keys: Sequence[str]) -> np.ndarray:
        """Return the labels (B,) float64 of uint8 crops; an image's label depends on no other image.

        `keys` are the images' names: draws come from (seed, key), so neither batch nor order changes a label.
        """
        raise NotImplementedError


class PopulationSource(LabelSource):
    """Give labels that compare images with each other: embed everything first, then finish."""

    reason: ClassVar[str]
    """Why an image gets NaN, in a few words."""
    verbose: bool = True
    """Show a bar while comparing."""

    @torch.no_grad()
    def embedding_dim(self) -> int:
        """Return D."""
        return self.network.embed(self.network.blank(1)).shape[1]

    def embed(self, images_BHW3: Tensor) -> np.ndarray:
        """Return the embeddings (B, D) float32 of uint8 crops."""
        with torch.no_grad():
            return self.network.embed(self.network.prepare(images_BHW3)).cpu().numpy()

    def finish(self, embeddings_ND: np.ndarray, identities: np.ndarray, keys: Sequence[str]) -> np.ndarray:
        """Return the labels (N,) float64; NaN marks an image that `reason` says cannot be labelled."""
        raise NotImplementedError


def keyed_seed(seed: int, key: str) -> int:
    """Return 63 bits that depend on seed and key alone, the same in every process and version."""
    digest = hashlib.blake2b(f"{seed}\0{key}".encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1


def keyed_generator(seed: int, key: str, device: torch.device) -> torch.Generator:
    """Return the torch generator of one image."""
    return torch.Generator(device).manual_seed(keyed_seed(seed, key))


def pieces(total: int, size: int) -> Iterator[slice]:
    """Cut range(total) into consecutive slices of at most `size`, and at least one, items."""
    size = max(1, size)
    return (slice(start, start + size) for start in range(0, total, size))
