"""Put a network itself into bfloat16, for processors that multiply it fast: autocast casts at every layer instead."""

import copy

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm


class Bfloat16(nn.Module):
    """Run a copy of a network in bfloat16, between float32 crops (B, 3, S, S) and a float32 embedding (B, D).

    BatchNorms keep their parameters and statistics in float32, which costs no time.
    """

    def __init__(self, network: nn.Module):
        super().__init__()
        self.network = copy.deepcopy(network).bfloat16()
        for name, module in network.named_modules():
            if isinstance(module, _BatchNorm):
                self.network.set_submodule(name, copy.deepcopy(module))

    def forward(self, images: Tensor) -> Tensor:
        """Map normalised crops to the embedding, the first of several outputs."""
        output = self.network(images.bfloat16())
        return (output[0] if isinstance(output, tuple | list) else output).float()


@torch.inference_mode()
def in_bfloat16(network: nn.Module, size_px: int) -> nn.Module | None:
    """Return the network in bfloat16; None for one whose code mixes number formats, which autocast can still run."""
    whole = Bfloat16(network).eval().requires_grad_(False).to(memory_format=torch.channels_last)
    try:
        whole(torch.zeros(1, 3, size_px, size_px))
    except RuntimeError:
        return None
    return whole
