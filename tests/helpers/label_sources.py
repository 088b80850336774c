"""Crops, their names and draws, and a tiny network, as a label source gets them; preprocessing written out."""

import hashlib

import torch

from model.frozen.network import TorchNetwork
from utils.contract import InputContract

SIZE = 16
CONTRACT = InputContract(size_px=SIZE, mean=(0.5, 0.4, 0.3), std=(0.5, 0.25, 0.4))
SEED = 11
NAMES = [f"id_{i // 3}/{i}.jpg" for i in range(7)]


def noise_crops() -> torch.Tensor:
    """Return a crop of noise for each of NAMES, uint8 (B, S, S, 3)."""
    return torch.randint(0, 256, (len(NAMES), SIZE, SIZE, 3), generator=torch.Generator().manual_seed(5)).to(
        torch.uint8
    )


def frozen(module: torch.nn.Module) -> TorchNetwork:
    """Return a network as a label source takes it."""
    return TorchNetwork(module, CONTRACT, torch.device("cpu"))


def pixels(image: torch.Tensor) -> torch.Tensor:
    """Return one uint8 crop (S, S, 3) as (3, S, S) in [0, 1]."""
    return image.permute(2, 0, 1).float() / 255


def normalised(pixel: torch.Tensor) -> torch.Tensor:
    """Return the input of the network for pixels in [0, 1]."""
    return (pixel - torch.tensor(CONTRACT.mean).view(3, 1, 1)) / torch.tensor(CONTRACT.std).view(3, 1, 1)


def seed_of(name: str) -> int:
    """Return the seed of an image's draws: they depend on SEED and its name alone."""
    return int.from_bytes(hashlib.blake2b(f"{SEED}\0{name}".encode(), digest_size=8).digest(), "big") // 2


def generator_of(name: str) -> torch.Generator:
    """Return the generator of an image's draws."""
    return torch.Generator().manual_seed(seed_of(name))
