"""Names and shapes of the tensors in published files, written out from the layer facts, and weights of any layout."""

from collections.abc import Sequence

import torch
from torch import Tensor

from tests.helpers.reference_networks import swin_offsets, swin_windows

Layout = dict[str, tuple[int, ...]]


def linear(name: str, wide: int, out: int, bias: bool = True) -> Layout:
    return {f"{name}.weight": (out, wide), **({f"{name}.bias": (out,)} if bias else {})}


def norm(name: str, width: int) -> Layout:
    return {f"{name}.weight": (width,), f"{name}.bias": (width,)}


def batch_norm(name: str, width: int) -> Layout:
    statistics = {f"{name}.running_{kind}": (width,) for kind in ("mean", "var")}
    return {**norm(name, width), **statistics, f"{name}.num_batches_tracked": ()}


def block(name: str, width: int, qkv_bias: bool) -> Layout:
    return {
        **norm(f"{name}.norm1", width),
        **linear(f"{name}.attn.qkv", width, 3 * width, qkv_bias),
        **linear(f"{name}.attn.proj", width, width),
        **norm(f"{name}.norm2", width),
        **linear(f"{name}.mlp.fc1", width, 4 * width),
        **linear(f"{name}.mlp.fc2", 4 * width, width),
    }


def feature(wide: int, inner: int) -> Layout:
    return {
        **linear("feature.0", wide, inner, False),
        **batch_norm("feature.1", inner),
        **linear("feature.2", inner, 512, False),
        **batch_norm("feature.3", 512),
    }


def transface(width: int, depth: int) -> Layout:
    """Layout of TransFace's `model.pt`: 12 x 12 patches of 9 px."""
    layout: Layout = {
        "mask_token": (1, 1, width),
        "pos_embed": (1, 144, width),
        "patch_embed.proj.weight": (width, 3, 9, 9),
        "patch_embed.proj.bias": (width,),
    }
    for i in range(depth):
        layout |= block(f"blocks.{i}", width, False)
    senet = {**linear("senet.0", 144 * width, 144, False), **linear("senet.2", 144, 144, False)}
    return {**layout, **norm("norm", width), **feature(144 * width, width), **senet}


def swinface(width: int = 96, depths: Sequence[int] = (2, 2, 6, 2), heads: Sequence[int] = (3, 6, 12, 24)) -> Layout:
    """Layout of `state_dict_backbone` in SwinFace's file: maps of 56, 28, 14 and 7 tokens a side."""
    layout: Layout = {"patch_embed.proj.weight": (width, 3, 2, 2), "patch_embed.proj.bias": (width,)}
    layout |= norm("patch_embed.norm", width)
    for stage, (depth, count) in enumerate(zip(depths, heads, strict=True)):
        side, wide = 56 // 2**stage, width * 2**stage
        for i in range(depth):
            name = f"layers.{stage}.blocks.{i}"
            layout |= block(name, wide, True)
            layout |= {f"{name}.attn.relative_position_bias_table": (169, count)}
            layout |= {f"{name}.attn.relative_position_index": (49, 49)}
            if i % 2 and side > 7:
                layout |= {f"{name}.attn_mask": ((side // 7) ** 2, 49, 49)}
        if side > 7:
            layout |= norm(f"layers.{stage}.downsample.norm", 4 * wide)
            layout |= linear(f"layers.{stage}.downsample.reduction", 4 * wide, 2 * wide, False)
    widest = width * 2 ** (len(depths) - 1)
    return {**layout, **norm("norm", widest), **linear("head", widest, 512), **feature(widest, widest)}


def weights(layout: Layout) -> dict[str, Tensor]:
    """Return seeded weights of a layout, as of a network that has seen something."""
    generator = torch.Generator().manual_seed(5)

    def one(key: str, shape: tuple[int, ...]) -> Tensor:
        kind = key.rpartition(".")[2]
        if kind == "num_batches_tracked":
            return torch.tensor(9)
        if kind == "relative_position_index":
            return swin_offsets()
        if kind == "attn_mask":
            return swin_windows(round(shape[0] ** 0.5) * 7, 3)[1]
        if kind == "running_var" or (kind == "weight" and len(shape) == 1):
            return torch.rand(shape, generator=generator) + 0.5
        spread = torch.tensor(shape[1:]).prod() ** -0.5 if kind == "weight" else 0.3
        # wide enough for ReLU6 to cut at 6
        return torch.randn(shape, generator=generator) * spread * (4 if key.endswith("fc1.weight") else 1)

    return {key: one(key, shape) for key, shape in layout.items()}
