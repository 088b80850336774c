"""Published networks written out from their layer facts as plain functions of a state_dict, for comparison."""

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

State = dict[str, Tensor]


def norm(x: Tensor, s: State, name: str, eps: float = 1e-5) -> Tensor:
    shape = (1, -1, 1, 1) if x.dim() == 4 else (1, -1)
    mean, var = (s[f"{name}.running_{kind}"].view(shape) for kind in ("mean", "var"))
    x = (x - mean) / (var + eps).sqrt()
    return x * s[f"{name}.weight"].view(shape) + s[f"{name}.bias"].view(shape) if f"{name}.weight" in s else x


def prelu(x: Tensor, s: State, name: str) -> Tensor:
    weight = s[f"{name}.weight"].view((1, -1, 1, 1) if x.dim() == 4 else (1, -1))
    return x.clamp(min=0) + weight * x.clamp(max=0)


def conv(x: Tensor, s: State, name: str, stride: int = 1, padding: int | None = None) -> Tensor:
    weight = s[f"{name}.weight"]
    padding = weight.shape[2] // 2 if padding is None else padding
    return functional.conv2d(x, weight, None, stride, padding, groups=x.shape[1] // weight.shape[1])


def linear(x: Tensor, s: State, name: str) -> Tensor:
    return x @ s[f"{name}.weight"].T + s.get(f"{name}.bias", 0)


def iresnet(s: State, x: Tensor, eps: float = 1e-5) -> Tensor:
    x = prelu(norm(conv(x, s, "conv1"), s, "bn1", eps), s, "prelu")
    for layer in range(1, 5):
        block = 0
        while f"layer{layer}.{block}.conv1.weight" in s:
            name, stride = f"layer{layer}.{block}", 1 if block else 2
            out = norm(conv(norm(x, s, f"{name}.bn1", eps), s, f"{name}.conv1"), s, f"{name}.bn2", eps)
            out = norm(conv(prelu(out, s, f"{name}.prelu"), s, f"{name}.conv2", stride), s, f"{name}.bn3", eps)
            if not block:
                x = norm(conv(x, s, f"{name}.downsample.0", stride), s, f"{name}.downsample.1", eps)
            x, block = x + out, block + 1
    return norm(linear(norm(x, s, "bn2", eps).flatten(1), s, "fc"), s, "features", eps)


def ir(s: State, x: Tensor, inner_norm: bool) -> Tensor:
    """The trunk of AdaFace (a BatchNorm within each block) and of SDD-FIQA (none); returns (B, 512, 7, 7)."""
    x = prelu(norm(conv(x, s, "input_layer.0"), s, "input_layer.1"), s, "input_layer.2")
    block, more, width = 0, int(inner_norm), 0
    while f"body.{block}.res_layer.1.weight" in s:
        name = f"body.{block}.res_layer"
        stride = 2 if (planes := s[f"{name}.1.weight"].shape[0]) != width else 1
        out = conv(norm(x, s, f"{name}.0"), s, f"{name}.1")
        out = prelu(norm(out, s, f"{name}.2") if inner_norm else out, s, f"{name}.{2 + more}")
        out = norm(conv(out, s, f"{name}.{3 + more}", stride), s, f"{name}.{4 + more}")
        shortcut, short = x[:, :, ::stride, ::stride], f"body.{block}.shortcut_layer"
        if f"{short}.0.weight" in s:
            shortcut = norm(conv(shortcut, s, f"{short}.0"), s, f"{short}.1")
        x, block, width = shortcut + out, block + 1, planes
    return x


def adaface(s: State, x: Tensor) -> Tensor:
    x = norm(ir(s, x, True), s, "output_layer.0").flatten(1)
    return norm(linear(x, s, "output_layer.3"), s, "output_layer.4")


def sdd_fiqa(s: State, x: Tensor) -> Tensor:
    return linear(prelu(ir(s, x, False).flatten(1), s, "quality.1"), s, "quality.3").flatten()


def mobile(s: State, x: Tensor) -> Tensor:
    """The MobileFaceNet of eDifFIQA(T)."""

    def unit(x: Tensor, name: str, stride: int = 1, padding: int | None = None) -> Tensor:
        x = norm(conv(x, s, f"{name}.conv", stride, padding), s, f"{name}.bn")
        return prelu(x, s, f"{name}.prelu") if f"{name}.prelu.weight" in s else x

    def block(x: Tensor, name: str, stride: int = 1) -> Tensor:
        return unit(unit(unit(x, f"{name}.conv"), f"{name}.conv_dw", stride), f"{name}.project")

    x = unit(unit(x, "conv1", 2), "conv2_dw")
    for down, stay, count in (("conv_23", "conv_3", 4), ("conv_34", "conv_4", 6), ("conv_45", "conv_5", 2)):
        x = block(x, down, 2)
        for i in range(count):
            x = x + block(x, f"{stay}.model.{i}")
    x = unit(unit(x, "conv_6_sep"), "conv_6_dw", padding=0).flatten(1)
    x = norm(linear(x, s, "linear"), s, "bn")
    return x / x.norm(dim=1, keepdim=True)


def mlp(s: State, x: Tensor) -> Tensor:
    hidden = linear(x, s, "l1")
    return linear(hidden * 0.5 * (1 + torch.erf(hidden / np.sqrt(2))), s, "l2").flatten()


def layer_norm(x: Tensor, s: State, name: str) -> Tensor:
    x = x - x.mean(-1, keepdim=True)
    return x / (x.square().mean(-1, keepdim=True) + 1e-5).sqrt() * s[f"{name}.weight"] + s[f"{name}.bias"]


def patches(x: Tensor, s: State, name: str) -> Tensor:
    """Return a token of each patch, row by row; (B, N, D)."""
    weight = s[f"{name}.weight"]
    cut = functional.unfold(x, weight.shape[2], stride=weight.shape[2]).transpose(1, 2)
    return cut @ weight.flatten(1).T + s[f"{name}.bias"]


def attention(x: Tensor, s: State, name: str, bias: list[Tensor | float]) -> Tensor:
    """Attention of (..., N, D), head by head; one bias, (..., N, N) or a number, for each head."""
    mixed, width = linear(x, s, f"{name}.qkv"), x.shape[-1]
    size, heads = width // len(bias), []
    for head, extra in enumerate(bias):
        query, key, value = (mixed[..., start : start + size] for start in range(head * size, 3 * width, width))
        scores = (query @ key.transpose(-1, -2) / size**0.5 + extra).exp()
        heads.append(scores @ value / scores.sum(-1, keepdim=True))
    return linear(torch.cat(heads, -1), s, f"{name}.proj")


def feature(x: Tensor, s: State) -> Tensor:
    x = norm(linear(x, s, "feature.0"), s, "feature.1", 2e-5)
    return norm(linear(x, s, "feature.2"), s, "feature.3", 2e-5)


def transface(s: State, x: Tensor, heads: int = 8) -> Tensor:
    x, block = patches(x, s, "patch_embed.proj") + s["pos_embed"], 0
    while f"blocks.{block}.norm1.weight" in s:
        name = f"blocks.{block}"
        x = x + attention(layer_norm(x, s, f"{name}.norm1"), s, f"{name}.attn", [0.0] * heads)
        hidden = linear(layer_norm(x, s, f"{name}.norm2"), s, f"{name}.mlp.fc1").clamp(0, 6)
        x, block = x + linear(hidden, s, f"{name}.mlp.fc2"), block + 1
    x = layer_norm(x, s, "norm")
    weights = torch.sigmoid(linear(linear(x.flatten(1), s, "senet.0").clamp(min=0), s, "senet.2"))
    return feature((x * weights[:, :, None]).flatten(1), s)


def swin_windows(side: int, shift: int) -> tuple[Tensor, Tensor]:
    """Return which tokens of a map each window holds (windows, 49), and where shifting brought strangers together."""
    tokens, apart = [], []
    for top in range(0, side, 7):
        for left in range(0, side, 7):
            places = [(top + a + shift, left + b + shift) for a in range(7) for b in range(7)]
            tokens.append([(row % side) * side + column % side for row, column in places])
            around = [(row >= side, column >= side) for row, column in places]
            apart.append([[-100.0 * (one != other) for other in around] for one in around])
    return torch.tensor(tokens), torch.tensor(apart)


def swin_offsets() -> Tensor:
    """Return the row of the bias table for each two tokens of a window, (49, 49)."""
    places = [(a, b) for a in range(7) for b in range(7)]
    return torch.tensor([[(a - c + 6) * 13 + b - d + 6 for c, d in places] for a, b in places])


def swinface(s: State, x: Tensor) -> Tensor:
    """The output `Recognition` of SwinFace, from the state of its backbone."""
    x, side, stage = layer_norm(patches(x, s, "patch_embed.proj"), s, "patch_embed.norm"), 56, 0
    while f"layers.{stage}.blocks.0.norm1.weight" in s:
        block = 0
        while f"layers.{stage}.blocks.{block}.norm1.weight" in s:
            x, block = swin_block(x, s, f"layers.{stage}.blocks.{block}", side, 3 * (block % 2) * (side > 7)), block + 1
        if f"layers.{stage}.downsample.norm.weight" in s:
            x = x.unflatten(1, (side, side))
            quarters = [x[:, row::2, column::2] for column in (0, 1) for row in (0, 1)]
            x = layer_norm(torch.cat(quarters, -1).flatten(1, 2), s, f"layers.{stage}.downsample.norm")
            x, side = linear(x, s, f"layers.{stage}.downsample.reduction"), side // 2
        stage += 1
    return feature(layer_norm(x, s, "norm").mean(1), s)


def swin_block(x: Tensor, s: State, name: str, side: int, shift: int) -> Tensor:
    tokens, apart = swin_windows(side, shift)
    table = s[f"{name}.attn.relative_position_bias_table"][swin_offsets()]
    bias = [table[..., head] + apart for head in range(table.shape[-1])]
    found = torch.empty_like(x)
    found[:, tokens] = attention(layer_norm(x, s, f"{name}.norm1")[:, tokens], s, f"{name}.attn", bias)
    x = x + found
    hidden = linear(layer_norm(x, s, f"{name}.norm2"), s, f"{name}.mlp.fc1")
    return x + linear(hidden * 0.5 * (1 + torch.erf(hidden / np.sqrt(2))), s, f"{name}.mlp.fc2")
