"""Fold each BatchNorm into the convolution in front of it: the same function, fewer passes over memory."""

import copy
from collections import Counter

from torch import fx, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval


def fold_batchnorm(network: nn.Module) -> nn.Module:
    """Return a copy, for inference, whose BatchNorms behind a convolution are part of it.

    A pair is folded where the BatchNorm alone reads the convolution's output, which tracing the network shows; a
    network that cannot be traced is returned as it is. A BatchNorm in front of a zero-padded convolution stays: the
    padding is not normalised.
    """
    folded = copy.deepcopy(network).eval()
    for conv, norm in _pairs(folded):
        fused = fuse_conv_bn_eval(folded.get_submodule(conv), folded.get_submodule(norm))
        folded.set_submodule(conv, fused)
        folded.set_submodule(norm, nn.Identity())
    return folded


def _pairs(network: nn.Module) -> list[tuple[str, str]]:
    """Return the names of convolutions and the BatchNorms that alone read them."""
    try:
        graph = fx.Tracer().trace(network)
    except Exception:  # a user's own forward may do what tracing cannot follow
        return []
    calls = Counter(node.target for node in graph.nodes if node.op == "call_module")
    pairs = []
    for node in graph.nodes:
        before = node.args[0] if node.op == "call_module" and node.args else None
        if not isinstance(before, fx.Node) or before.op != "call_module" or len(before.users) != 1:
            continue
        conv, norm = network.get_submodule(before.target), network.get_submodule(node.target)
        once = calls[node.target] == calls[before.target] == 1
        if once and type(conv) is nn.Conv2d and type(norm) is nn.BatchNorm2d and norm.track_running_stats:
            pairs.append((before.target, node.target))
    return pairs
