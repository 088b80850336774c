"""The MobileFaceNet of eDifFIQA(T): MobileFaceNet's table under other names, with an embedding of length 1.

Layer facts: docs/formats.md, published networks.
"""

from collections import OrderedDict

import torch
from torch import Tensor, nn
from torch.nn import functional


def unit(planes: tuple[int, int], kernel: int, stride: int = 1, groups: int = 1, linear: bool = False) -> nn.Sequential:
    """Build a convolution without bias, BatchNorm and, unless `linear`, PReLU; `planes` is (in, out)."""
    padding = 1 if kernel == 3 else 0
    layers: dict[str, nn.Module] = {
        "conv": nn.Conv2d(*planes, kernel, stride, padding, groups=groups, bias=False),
        "bn": nn.BatchNorm2d(planes[1]),
    }
    return nn.Sequential(OrderedDict(layers if linear else {**layers, "prelu": nn.PReLU(planes[1])}))


class DepthWise(nn.Module):
    """Expand by 1x1, filter depthwise, project linearly; `residual` adds the input."""

    def __init__(self, planes: tuple[int, int], wide: int, stride: int = 1, residual: bool = False):
        super().__init__()
        self.conv = unit((planes[0], wide), 1)
        self.conv_dw = unit((wide, wide), 3, stride, groups=wide)
        self.project = unit((wide, planes[1]), 1, linear=True)
        self.residual = residual

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, H, W) to (B, planes, H / stride, W / stride)."""
        out = self.project(self.conv_dw(self.conv(x)))
        return x + out if self.residual else out


def stage(planes: int, wide: int, count: int) -> nn.Sequential:
    """Build `count` residual blocks of the same width."""
    blocks = nn.Sequential(*(DepthWise((planes, planes), wide, residual=True) for _ in range(count)))
    return nn.Sequential(OrderedDict(model=blocks))


class UnitMobileFaceNet(nn.Module):
    """Map (B, 3, 112, 112) crops to (B, 512) embeddings of length 1."""

    def __init__(self):
        super().__init__()
        self.conv1 = unit((3, 64), 3, 2)
        self.conv2_dw = unit((64, 64), 3, groups=64)
        self.conv_23 = DepthWise((64, 64), 128, 2)
        self.conv_3 = stage(64, 128, 4)
        self.conv_34 = DepthWise((64, 128), 256, 2)
        self.conv_4 = stage(128, 256, 6)
        self.conv_45 = DepthWise((128, 128), 512, 2)
        self.conv_5 = stage(128, 256, 2)
        self.conv_6_sep = unit((128, 512), 1)
        self.conv_6_dw = unit((512, 512), 7, groups=512, linear=True)
        self.linear = nn.Linear(512, 512, bias=False)
        self.bn = nn.BatchNorm1d(512)

    def forward(self, x: Tensor) -> Tensor:
        """Return the embeddings (B, 512)."""
        x = self.conv_3(self.conv_23(self.conv2_dw(self.conv1(x))))
        x = self.conv_5(self.conv_45(self.conv_4(self.conv_34(x))))
        x = torch.flatten(self.conv_6_dw(self.conv_6_sep(x)), 1)
        return functional.normalize(self.bn(self.linear(x)), eps=0)
