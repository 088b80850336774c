"""Margin heads: class weights that turn embeddings into logits for recognition training. Dropped afterwards."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class MarginHead(nn.Module):
    """Hold one direction w_j per class; logits are scale * cosine, the label's cosine made harder by a margin."""

    def __init__(self, in_dim: int, num_classes: int, scale: float, margin: float):
        super().__init__()
        self.weight = nn.Parameter(torch.empty(num_classes, in_dim).normal_(std=0.01))
        self.scale = scale
        self.margin = margin

    def cosines(self, embedding_BD: Tensor) -> Tensor:
        """Return cos(f_i, w_j) as (B, num_classes), in float32 whatever the surrounding autocast."""
        with torch.autocast(embedding_BD.device.type, enabled=False):
            return F.linear(F.normalize(embedding_BD.float()), F.normalize(self.weight.float()))

    def harden(self, label_cosine_B: Tensor) -> Tensor:
        """Return the label's cosine with the margin applied."""
        raise NotImplementedError

    def logits(self, cosines_BC: Tensor, label_B: Tensor) -> Tensor:
        """Return scale * cosines with the margin applied to each row's label."""
        index = label_B.view(-1, 1)
        hard = self.harden(cosines_BC.gather(1, index))
        return self.scale * cosines_BC.scatter(1, index, hard)

    def forward(self, embedding_BD: Tensor, label_B: Tensor) -> Tensor:
        """Return the logits (B, num_classes) for cross-entropy."""
        return self.logits(self.cosines(embedding_BD), label_B)


class CosFaceHead(MarginHead):
    """cos(theta_y) - m (Wang et al. 2018)."""

    def __init__(self, in_dim: int, num_classes: int, scale: float = 64.0, margin: float = 0.4):
        super().__init__(in_dim, num_classes, scale, margin)

    def harden(self, label_cosine_B: Tensor) -> Tensor:
        """Subtract the margin from the cosine."""
        return label_cosine_B - self.margin


class ArcFaceHead(MarginHead):
    """cos(theta_y + m) (Deng et al. 2019)."""

    def __init__(self, in_dim: int, num_classes: int, scale: float = 64.0, margin: float = 0.5):
        super().__init__(in_dim, num_classes, scale, margin)

    def harden(self, label_cosine_B: Tensor) -> Tensor:
        """Add the margin to the angle.

        cos(theta + m) = c cos m - sqrt(1 - c^2) sin m, which needs no acos (infinite gradient at c = +-1). Past
        theta = pi - m it would rise again; there the line c - m sin m takes over, which keeps the logit monotone.
        """
        c = label_cosine_B.clamp(-1.0, 1.0)
        sine = (1.0 - c * c).clamp_min(1e-6).sqrt()
        added = c * math.cos(self.margin) - sine * math.sin(self.margin)
        return torch.where(c > math.cos(math.pi - self.margin), added, c - self.margin * math.sin(self.margin))
