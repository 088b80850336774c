"""TransFace (Dan et al. 2023): a vision transformer whose patches are weighted before the embedding.

Layer facts: docs/formats.md, published networks.
"""

from collections import OrderedDict

import torch
from einops import rearrange
from torch import Tensor, nn

from model.published.tokens import Attention, TokenBlock, embedding_layers

PATCH_PX = 9
PATCHES = (112 // PATCH_PX) ** 2
"""The last 4 rows and columns of a 112x112 crop are in no patch."""


class TransFaceNet(nn.Module):
    """Map (B, 3, 112, 112) crops to (B, num_features) embeddings.

    TransFace's own code returns the embedding, the weights of the patches and their deviations. While it trains, it
    hides patches; here every patch is seen.
    """

    def __init__(self, width: int = 512, depth: int = 12, heads: int = 8, num_features: int = 512):
        """Build the layers. width: numbers for each patch. depth: blocks."""
        super().__init__()
        self.patch_embed = nn.Sequential(OrderedDict(proj=nn.Conv2d(3, width, PATCH_PX, PATCH_PX)))
        self.pos_embed = nn.Parameter(nn.init.trunc_normal_(torch.empty(1, PATCHES, width), std=0.02))
        # What stands for a hidden patch: it is in every file, and nothing here reads it.
        self.mask_token = nn.Parameter(torch.zeros(1, 1, width), requires_grad=False)
        self.blocks = nn.Sequential(
            *(TokenBlock(Attention(width, heads, qkv_bias=False), width, nn.ReLU6()) for _ in range(depth))
        )
        self.norm = nn.LayerNorm(width)
        self.senet = nn.Sequential(
            nn.Linear(PATCHES * width, PATCHES, bias=False),
            nn.ReLU(),
            nn.Linear(PATCHES, PATCHES, bias=False),
            nn.Sigmoid(),
        )
        self.feature = embedding_layers(PATCHES * width, width, num_features)

    def forward(self, x: Tensor) -> Tensor:
        """Return the embeddings (B, num_features)."""
        patches_BPD = rearrange(self.patch_embed(x), "b d h w -> b (h w) d") + self.pos_embed
        patches_BPD = self.norm(self.blocks(patches_BPD))
        weights_BP = self.senet(patches_BPD.flatten(1))
        return self.feature((patches_BPD * weights_BP[..., None]).flatten(1))
