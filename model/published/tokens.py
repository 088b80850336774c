"""What the transformers of TransFace and SwinFace share: attention over tokens, and the block around it."""

from collections import OrderedDict

from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional


class Attention(nn.Module):
    """Let each token of a group answer with a mean of the group's values (Vaswani et al. 2017).

    Convention: tokens are (..., N, D); groups of N do not see each other. Scores are divided by sqrt(D / heads).
    """

    def __init__(self, width: int, heads: int, qkv_bias: bool):
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width, bias=qkv_bias)
        self.proj = nn.Linear(width, width)

    def forward(self, tokens: Tensor, bias: Tensor | None = None) -> Tensor:
        """Map (..., N, D) to the same shape; `bias`, broadcast to (..., heads, N, N), is added to the scores."""
        query, key, value = rearrange(self.qkv(tokens), "... n (part h d) -> part ... h n d", part=3, h=self.heads)
        mean = functional.scaled_dot_product_attention(query, key, value, attn_mask=bias)
        return self.proj(rearrange(mean, "... h n d -> ... n (h d)"))


class TokenBlock(nn.Module):
    """Add attention over the normalised tokens, then a two-layer MLP of the normalised tokens."""

    def __init__(self, attention: nn.Module, width: int, activation: nn.Module):
        super().__init__()
        self.norm1 = nn.LayerNorm(width)
        self.attn = attention
        self.norm2 = nn.LayerNorm(width)
        layers = {"fc1": nn.Linear(width, 4 * width), "act": activation, "fc2": nn.Linear(4 * width, width)}
        self.mlp = nn.Sequential(OrderedDict(layers))

    def attend(self, tokens: Tensor) -> Tensor:
        """Apply the attention."""
        return self.attn(tokens)

    def forward(self, tokens: Tensor) -> Tensor:
        """Map (..., D) to the same shape."""
        tokens = tokens + self.attend(self.norm1(tokens))
        return tokens + self.mlp(self.norm2(tokens))


def embedding_layers(wide: int, inner: int, num_features: int) -> nn.Sequential:
    """Build Linear, BatchNorm, Linear, BatchNorm from `wide` numbers to the embedding."""
    return nn.Sequential(
        nn.Linear(wide, inner, bias=False),
        nn.BatchNorm1d(inner, eps=2e-5),
        nn.Linear(inner, num_features, bias=False),
        nn.BatchNorm1d(num_features, eps=2e-5),
    )
