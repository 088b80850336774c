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
