"""Fold each BatchNorm into the convolution in front of it: the same function, fewer passes over memory."""

import copy
from collections import Counter
from typing import NamedTuple

from torch import fx, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval


def fold_batchnorm(network: nn.Module) -> nn.Module:
    """Return a copy, for inference, whose BatchNorms behind a convolution are part of it.

    A pair is folded where the BatchNorm alone reads the convolution's output, which tracing the network shows; a
    network that cannot be traced is returned as it is. A BatchNorm in front of a zero-padded convolution stays: the
    padding is not normalised.
    """
    folded = copy.deepcopy(network).eval()
    for pair in _pairs(folded):
        folded.set_submodule(pair.conv_name, fuse_conv_bn_eval(pair.conv, pair.norm))
        folded.set_submodule(pair.norm_name, nn.Identity())
    return folded


class _Pair(NamedTuple):
    conv_name: str
    conv: nn.Conv2d
    norm_name: str
    norm: nn.BatchNorm2d


def _pairs(network: nn.Module) -> list[_Pair]:
    """Return the convolutions and the BatchNorms that alone read them."""
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
        names = str(before.target), str(node.target)
        conv, norm = map(network.get_submodule, names)
        once = all(calls[name] == 1 for name in names)
        if once and type(conv) is nn.Conv2d and type(norm) is nn.BatchNorm2d and norm.track_running_stats:
            pairs.append(_Pair(names[0], conv, names[1], norm))
    return pairs
