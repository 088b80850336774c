"""The backbone of SwinFace (Qin et al. 2023): Swin-T (Liu et al. 2021) on patches of 2 px, with an embedding.

Layer facts: docs/formats.md, published networks. Maps of tokens are (B, H, W, D).
"""

from collections.abc import Sequence

import torch
from einops import rearrange
from torch import Tensor, nn

from model.published.tokens import Attention, TokenBlock, embedding_layers

WINDOW = 7
SHIFT = WINDOW // 2
PATCH_PX = 2
APART = -100.0
"""What is added to the score of two tokens that share a shifted window, but were no neighbours in the image."""


def windows(map_BHWD: Tensor) -> Tensor:
    """Cut (B, H, W, D) into its windows (B, H / 7 * W / 7, 49, D)."""
    return rearrange(map_BHWD, "b (y r) (x c) d -> b (y x) (r c) d", r=WINDOW, c=WINDOW)


def bias_index() -> Tensor:
    """Return, for each two tokens of a window, the row (49, 49) of the bias table for their offset."""
    row, column = torch.meshgrid(torch.arange(WINDOW), torch.arange(WINDOW), indexing="ij")
    places_N2 = torch.stack([row.flatten(), column.flatten()], dim=1)
    down, right = (places_N2[:, None] - places_N2[None, :] + WINDOW - 1).unbind(-1)
    return down * (2 * WINDOW - 1) + right


def shift_mask(side: int) -> Tensor:
    """Return what to add to the scores of each window (windows, 49, 49) of a shifted map of side x side tokens."""
    around = (torch.arange(side) >= side - SHIFT).long()  # came from the other edge
    region_WN = windows((2 * around[:, None] + around)[None, ..., None])[0, ..., 0]
    apart = region_WN[:, :, None] != region_WN[:, None, :]
    return torch.zeros(apart.shape).masked_fill(apart, APART)


class WindowAttention(Attention):
    """Attention within windows of 7x7 tokens, with a learned bias for each offset of two tokens and each head."""

    relative_position_index: Tensor

    def __init__(self, width: int, heads: int):
        super().__init__(width, heads, qkv_bias=True)
        table = torch.empty((2 * WINDOW - 1) ** 2, heads)
        self.relative_position_bias_table = nn.Parameter(nn.init.trunc_normal_(table, std=0.02))
        self.register_buffer("relative_position_index", bias_index())

    def forward(self, tokens: Tensor, bias: Tensor | None = None) -> Tensor:
        """Map (B, windows, 49, D) to the same shape; `bias` (windows, 49, 49) parts what the shift brought together."""
        offsets = rearrange(self.relative_position_bias_table[self.relative_position_index], "n m h -> h n m")
        return super().forward(tokens, offsets if bias is None else offsets + bias[:, None])


class SwinBlock(TokenBlock):
    """Attend within windows, which `shifted` moves by 3 tokens down and right, around the edges."""

    attn_mask: Tensor | None

    def __init__(self, width: int, heads: int, side: int, shifted: bool):
        super().__init__(WindowAttention(width, heads), width, nn.GELU())
        self.side, self.shifted = side, shifted
        self.register_buffer("attn_mask", shift_mask(side) if shifted else None)

    def attend(self, tokens: Tensor) -> Tensor:
        """Apply the attention to the windows of a map (B, side, side, D)."""
        if self.shifted:
            tokens = torch.roll(tokens, (-SHIFT, -SHIFT), (1, 2))
        found = self.attn(windows(tokens), self.attn_mask)
        across = self.side // WINDOW
        found = rearrange(found, "b (y x) (r c) d -> b (y r) (x c) d", y=across, r=WINDOW)
        return torch.roll(found, (SHIFT, SHIFT), (1, 2)) if self.shifted else found


class PatchMerging(nn.Module):
    """Make one token of twice the width of each 2x2 tokens, taken column by column."""

    def __init__(self, width: int):
        super().__init__()
        self.norm = nn.LayerNorm(4 * width)
        self.reduction = nn.Linear(4 * width, 2 * width, bias=False)

    def forward(self, map_BHWD: Tensor) -> Tensor:
        """Map (B, H, W, D) to (B, H / 2, W / 2, 2 D)."""
        return self.reduction(self.norm(rearrange(map_BHWD, "b (y r) (x c) d -> b y x (c r d)", r=2, c=2)))


class SwinStage(nn.Module):
    """Blocks on one map, every second one shifted where the map has more than one window; then, but in the last, merge.

    `downsample` is the merging.
    """

    def __init__(self, width: int, heads: int, depth: int, side: int):
        super().__init__()
        shifts = [bool(i % 2) and side > WINDOW for i in range(depth)]
        self.blocks = nn.Sequential(*(SwinBlock(width, heads, side, shifted) for shifted in shifts))
        self.downsample = PatchMerging(width) if side > WINDOW else None

    def forward(self, map_BHWD: Tensor) -> Tensor:
        """Map (B, H, W, D) to (B, H / 2, W / 2, 2 D), in the last stage to the same shape."""
        map_BHWD = self.blocks(map_BHWD)
        return map_BHWD if self.downsample is None else self.downsample(map_BHWD)


class PatchEmbedding(nn.Module):
    """Make one normalised token of each patch of 2x2 pixels."""

    def __init__(self, width: int):
        super().__init__()
        self.proj = nn.Conv2d(3, width, PATCH_PX, PATCH_PX)
        self.norm = nn.LayerNorm(width)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, 3, S, S) to (B, S / 2, S / 2, width)."""
        return self.norm(rearrange(self.proj(x), "b d h w -> b h w d"))


class SwinFaceNet(nn.Module):
    """Map (B, 3, 112, 112) crops to (B, num_features) embeddings, SwinFace's output `Recognition`.

    Its answers to 42 other questions (age, expression, attributes) come from further modules, which are not here.
    """

    def __init__(
        self,
        width: int = 96,
        depths: Sequence[int] = (2, 2, 6, 2),
        heads: Sequence[int] = (3, 6, 12, 24),
        num_features: int = 512,
    ):
        """Build four stages, on 56, 28, 14 and 7 tokens a side. width: of the first; depths: blocks of each."""
        super().__init__()
        self.patch_embed = PatchEmbedding(width)
        sides = [112 // PATCH_PX // 2**i for i in range(len(depths))]
        self.layers = nn.Sequential(
            *(SwinStage(width * 2**i, heads[i], depths[i], side) for i, side in enumerate(sides))
        )
        widest = width * 2 ** (len(depths) - 1)
        self.norm = nn.LayerNorm(widest)
        # Swin's classifier: it is in every file, and nothing reads it.
        self.head = nn.Linear(widest, num_features).requires_grad_(False)
        self.feature = embedding_layers(widest, widest, num_features)

    def forward(self, x: Tensor) -> Tensor:
        """Return the embeddings (B, num_features)."""
        return self.feature(self.norm(self.layers(self.patch_embed(x))).mean((1, 2)))
