"""AI-KD's networks: the student with its quality head, and the frozen teacher. Official YAML names point here.

Source: Babnik et al., AI-KD, arXiv 2404.09555. Shape suffixes: B batch, D embedding.
"""

import copy
import hashlib

import torch
from torch import Tensor, nn


class WrapperModel(nn.Module):
    """Predict embedding and quality of aligned crops; the state_dict has the official key names."""

    def __init__(self, feature_extractor: nn.Module, quality_head: nn.Module):
        super().__init__()
        self.feature_extractor = feature_extractor
        self.quality_head = quality_head

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Map normalised crops (B, 3, 112, 112) to embeddings (B, D) and qualities (B,), higher = better."""
        embedding_BD = self.feature_extractor(images)
        if isinstance(embedding_BD, tuple | list):
            embedding_BD = embedding_BD[0]
        return embedding_BD, self._quality(embedding_BD)

    def _quality(self, embedding_BD: Tensor) -> Tensor:
        """Compute the head in fp32 under any autocast: bf16 has 257 numbers between .5 and 1.5, qualities need more."""
        if not any(map(torch.is_autocast_enabled, ("cpu", "cuda"))):  # asks no tensor, so that it can be traced
            return self.quality_head(embedding_BD).flatten()
        with torch.autocast(embedding_BD.device.type, enabled=False):
            return self.quality_head(embedding_BD.float()).flatten()


class FrozenTeacher(nn.Module):
    """Give reference embeddings. Owns its weights; no call can put it back into train mode."""

    def __init__(self, backbone: nn.Module):
        super().__init__()
        self.backbone = copy.deepcopy(backbone).requires_grad_(False)
        self.train(False)

    def train(self, mode: bool = True) -> "FrozenTeacher":
        """Stay in evaluation mode, whatever is asked."""
        return super().train(False)

    @torch.no_grad()
    def forward(self, images: Tensor) -> Tensor:
        """Map normalised crops (B, 3, 112, 112) to embeddings (B, D)."""
        embedding_BD = self.backbone(images)
        return embedding_BD[0] if isinstance(embedding_BD, tuple | list) else embedding_BD

    def fingerprint(self) -> str:
        """Return the SHA-256 of layers and weights: equal ones give equal embeddings."""
        digest = hashlib.sha256(repr(self.backbone).encode())
        for name, tensor in self.backbone.state_dict().items():
            digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
            digest.update(tensor.cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
        return digest.hexdigest()
