"""FaceQAN: how stable an embedding is under adversarial noise and mirroring (Babnik et al., ICPR 2022)."""

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from pydantic import PositiveFloat, PositiveInt
from torch import Tensor

from model.frozen.network import TorchNetwork
from model.label_sources.base import LabelSource, named_generator, pieces
from utils.config.loading import StrictModel

EXPONENT = 5


class FaceQanConfig(StrictModel):
    """FaceQAN: agreement under adversarial noise. Needs gradients."""

    copies: PositiveInt = 10
    """k, noisy copies per image."""
    iterations: PositiveInt = 5
    """l, cosines recorded per copy; each but the last is followed by a step up the gradient's sign."""
    epsilon: PositiveFloat = 0.001
    """Half-width of the start noise and size of a step, for pixels in [0, 1]."""


class FaceQan(LabelSource):
    """Push k noisy copies away from the image's embedding, l times, and record how far they get.

    S holds the l * k cosines between copy and image, f the cosine between image and mirror image;
    q = [(1 + mean S) / 2 * clip(1 - std S, 0, 1) * f]^5, std over the population.

    The first gradients are tiny, so float32 noise decides some of their signs, and the attack makes it grow to a few
    1e-4 in q. Every pass therefore has the same number of rows, filled up with repeats: the noise of an image is then
    the same in any batch.
    """

    config = FaceQanConfig
    looks_inside = True
    network: TorchNetwork
    range = "[-1, 1], mostly above 0"
    draws_on_device = True

    def __init__(self, network: TorchNetwork, cfg: FaceQanConfig, seed: int = 0, rows: int = 32):
        super().__init__(network, cfg, seed, rows)
        std = torch.tensor(network.contract.std, device=network.device).view(3, 1, 1)
        mean = torch.tensor(network.contract.mean, device=network.device).view(3, 1, 1)
        self.step = cfg.epsilon / std  # epsilon is in pixels of [0, 1], the network's input is divided by std
        self.white = (1 - mean) / std  # a pixel of 1

    def scores(self, images_BHW3: Tensor, names: Sequence[str]) -> np.ndarray:
        """Return q for each image (B,)."""
        size = max(1, self.rows // self.cfg.copies)
        parts = []
        for part in pieces(len(names), size):
            places = np.arange(len(names))[part]
            filled = np.pad(places, (0, size - len(places)), mode="edge")
            score_G = self._score(images_BHW3[filled], [names[int(place)] for place in filled])
            parts.append(score_G[: len(places)])
        return torch.cat(parts).cpu().numpy()

    def _score(self, images_BHW3: Tensor, names: Sequence[str]) -> Tensor:
        x_BCHW = self.network.prepare(images_BHW3)
        with torch.no_grad():
            base_BD, mirror_BD = self.network.embed(torch.cat([x_BCHW, x_BCHW.flip(3)])).chunk(2)
        symmetry_B = F.cosine_similarity(base_BD.double(), mirror_BD.double())
        cosine_BS = self._attack(x_BCHW, base_BD, names).double()
        agreement_B = (1 + cosine_BS.mean(dim=1)) / 2
        steadiness_B = (1 - cosine_BS.std(dim=1, correction=0)).clamp(0, 1)
        return (agreement_B * steadiness_B * symmetry_B) ** EXPONENT

    def _attack(self, x_BCHW: Tensor, base_BD: Tensor, names: Sequence[str]) -> Tensor:
        """Return the recorded cosines (B, k * l), each taken before the step that follows it."""
        noise_BKCHW = torch.stack([self._noise(x_BCHW, name) for name in names])
        noisy = torch.minimum(x_BCHW.unsqueeze(1) + noise_BKCHW * self.step, self.white)  # as in the original
        copies = noisy.flatten(0, 1)
        target = base_BD.repeat_interleave(self.cfg.copies, dim=0)
        recorded = []
        for iteration in range(1, self.cfg.iterations + 1):
            last = iteration == self.cfg.iterations
            with torch.set_grad_enabled(not last):
                copies.requires_grad_(not last)
                cosine = F.cosine_similarity(self.network.embed(copies), target)
            recorded.append(cosine.detach().view(len(names), -1))
            if not last:  # one loss 1 - cos per copy; summed, each copy gets its own gradient
                (gradient,) = torch.autograd.grad((1 - cosine).sum(), copies)
                copies = (copies + self.step * gradient.sign()).detach()
        return torch.cat(recorded, dim=1)

    def _noise(self, x_BCHW: Tensor, name: str) -> Tensor:
        """Draw the start noise of one image's copies (k, 3, S, S) from U[-1, 1]."""
        generator = named_generator(self.seed, name, x_BCHW.device)
        return torch.rand(self.cfg.copies, *x_BCHW.shape[1:], generator=generator, device=x_BCHW.device) * 2 - 1
