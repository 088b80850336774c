"""Networks small enough to be checked by hand, for label sources; also a user's own package (--allow-module)."""

import torch
from torch import nn


class TinyNet(nn.Module):
    """Map (B, 3, S, S) to (B, 6): two convolutions with BatchNorm, dropout, Linear, BatchNorm."""

    def __init__(self, dropout: float = 0.0, size_px: int = 16):
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(3, 4, 3, 2, 1, bias=False), nn.BatchNorm2d(4)
        self.relu = nn.ReLU(inplace=True)
        self.conv2, self.bn2 = nn.Conv2d(4, 5, 3, 2, 1, bias=False), nn.BatchNorm2d(5)
        self.dropout = nn.Dropout(dropout)
        self.fc = nn.Linear(5 * (size_px // 4) ** 2, 6)
        self.features = nn.BatchNorm1d(6)

    def trunk(self, x):
        return torch.flatten(self.bn2(self.conv2(self.relu(self.bn1(self.conv1(x))))), 1)

    def forward(self, x):
        return self.features(self.fc(self.dropout(self.trunk(x))))


class Shortcut(nn.Module):
    """Map (B, 3, S, S) to (B, 6); a shortcut leads around a dropout in the middle."""

    def __init__(self, size_px: int = 16):
        super().__init__()
        self.inner = nn.Linear(3 * size_px**2, 3 * size_px**2)
        self.drop = nn.Dropout(0.3)
        self.late = nn.Dropout(0.5)
        self.fc = nn.Linear(3 * size_px**2, 6)

    def forward(self, x):
        x = torch.flatten(x, 1)
        return self.fc(self.late(x + self.inner(self.drop(x))))


class Convolutional(nn.Module):
    """Map (B, 3, S, S) to (B, 4) without Linear and without BatchNorm; returns a tuple."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)

    def forward(self, x):
        return self.conv(x).mean(dim=(2, 3)), None


def randomised(network: nn.Module, seed: int = 0) -> nn.Module:
    """Give every parameter and running statistic a random value, so that no layer is the identity."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for module in network.modules():
            for tensor in module.parameters(recurse=False):
                tensor.copy_(torch.randn(tensor.shape, generator=generator) * 0.3)
            if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
                module.weight.copy_(torch.rand(module.weight.shape, generator=generator) + 0.5)
                module.running_mean.copy_(torch.randn(module.running_mean.shape, generator=generator) * 0.3)
                module.running_var.copy_(torch.rand(module.running_var.shape, generator=generator) + 0.5)
    return network.eval()


def tiny_net(dropout: float = 0.0, size_px: int = 16) -> nn.Module:
    """Build a TinyNet with random statistics, the same each time."""
    return randomised(TinyNet(dropout, size_px))
