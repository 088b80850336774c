"""Quality heads: one number per embedding, unbounded, higher = better."""

from torch import Tensor, nn


class MLP(nn.Module):
    """Map embeddings (B, in_dim) to qualities (B, 1): Linear, exact GELU, Linear, no sigmoid (AI-KD, eDifFIQA)."""

    def __init__(self, in_dim: int = 512, hidden_dim: int = 1024):
        super().__init__()
        self.l1 = nn.Linear(in_dim, hidden_dim)
        self.gelu = nn.GELU(approximate="none")
        self.l2 = nn.Linear(hidden_dim, 1)

    def forward(self, embedding_BD: Tensor) -> Tensor:
        """Return qualities (B, 1)."""
        return self.l2(self.gelu(self.l1(embedding_BD)))


class LinearHead(nn.Linear):
    """Map embeddings (B, in_dim) to qualities (B, 1) by one Linear (DifFIQA(R), CR-FIQA)."""

    def __init__(self, in_dim: int = 512):
        super().__init__(in_dim, 1)
