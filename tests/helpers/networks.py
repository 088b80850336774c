"""Tiny networks and counting shared by tests."""

import torch
from torch import Tensor, nn


class TinyBackbone(nn.Module):
    """Map (B, 3, 112, 112) to (B, num_features) with one convolution; has BatchNorm, dropout and a last Linear."""

    def __init__(self, num_features: int = 8, dropout: float = 0.0):
        super().__init__()
        self.conv1 = nn.Conv2d(3, 4, kernel_size=8, stride=8, bias=False)
        self.bn1 = nn.BatchNorm2d(4)
        self.dropout = nn.Dropout(dropout)
        self.fc = nn.Linear(4 * 14 * 14, num_features)
        self.features = nn.BatchNorm1d(num_features)

    def forward(self, x: Tensor) -> Tensor:
        return self.features(self.fc(self.dropout(torch.flatten(torch.relu(self.bn1(self.conv1(x))), 1))))


def count_macs(network: nn.Module) -> int:
    """Count multiply-accumulates of convolutions and Linears for one 112x112 crop."""
    total = 0

    def add(module: nn.Module, inputs: tuple, output: Tensor) -> None:
        nonlocal total
        total += output.numel() * module.weight[0].numel()

    hooks = [m.register_forward_hook(add) for m in network.modules() if isinstance(m, nn.Conv2d | nn.Linear)]
    with torch.no_grad():
        network.eval()(torch.zeros(1, 3, 112, 112))
    for hook in hooks:
        hook.remove()
    return total
