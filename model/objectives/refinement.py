"""Label refinement of eDifFIQA: a label falls with the distance between an image and the centre of its identity.

Source: Babnik et al., eDifFIQA, IEEE TBIOM 2024. Shape suffixes: B batch, C identities, D embedding, N images.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional


class LabelRefinement(nn.Module):
    """Lower labels: y' = clamp(y - epsilon * (1 - cos(e, c)), 0, 1).

    e is the student's embedding of the image, without gradient; c the mean of the frozen teacher's raw embeddings of
    the identity's best images. The centres are a buffer: they are part of what a resumed run goes on from.
    """

    identity_N: Tensor
    centre_CD: Tensor
    has_centre_C: Tensor

    def __init__(self, identity_N: Tensor, dim: int, epsilon: float):
        """Take the identity of each image of the index (int32, -1: none)."""
        super().__init__()
        count = int(identity_N.max()) + 1
        self.epsilon = epsilon
        self.register_buffer("identity_N", identity_N, persistent=False)
        self.register_buffer("centre_CD", torch.zeros(count, dim))
        self.register_buffer("has_centre_C", torch.zeros(count, dtype=torch.bool))

    @property
    def complete(self) -> bool:
        """Tell whether the centres are known."""
        return bool(self.has_centre_C.any())

    def set_centres(self, sum_CD: Tensor, images_C: Tensor) -> None:
        """Take the sums of the embeddings that make each centre, and their number; without any there is no centre."""
        self.has_centre_C.copy_(images_C > 0)
        self.centre_CD.copy_(sum_CD / images_C.clamp_min(1).unsqueeze(1))

    def forward(self, label_B: Tensor, embedding_BD: Tensor, row_B: Tensor) -> Tensor:
        """Return the refined labels (B,); an image whose identity has no centre keeps its label."""
        identity_B = self.identity_N[row_B].long()
        cosine_B = functional.cosine_similarity(embedding_BD.detach().float(), self.centre_CD[identity_B])
        refined_B = (label_B - self.epsilon * (1 - cosine_B)).clamp(0, 1)
        return torch.where((identity_B >= 0) & self.has_centre_C[identity_B], refined_B, label_B)


class CentreSums:
    """Add up embeddings by identity, in float64 on the CPU: the order of the batches changes nothing that counts."""

    def __init__(self, refinement: LabelRefinement):
        """Start at nothing."""
        self.identity_N = refinement.identity_N.cpu()
        self.sum_CD = torch.zeros(refinement.centre_CD.shape, dtype=torch.float64)
        self.images_C = torch.zeros(len(self.sum_CD), dtype=torch.float64)

    def add(self, embedding_BD: Tensor, row_B: Tensor) -> None:
        """Add the embeddings of a batch."""
        identity_B = self.identity_N[row_B.cpu()].long()
        self.sum_CD.index_add_(0, identity_B, embedding_BD.detach().cpu().double())
        self.images_C.index_add_(0, identity_B, torch.ones(len(identity_B), dtype=torch.float64))
