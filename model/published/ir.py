"""The IR network of AdaFace and SDD-FIQA: IResNet's layers under other names, with other shortcuts.

Layer facts: docs/formats.md, published networks.
"""

import torch
from torch import Tensor, nn

from model.iresnet import BLOCKS, WIDTHS, conv3x3


class IrBlock(nn.Module):
    """Add BN, conv, (BN,) PReLU, conv(stride), BN to the shortcut, which drops pixels where the width stays."""

    def __init__(self, in_planes: int, planes: int, stride: int, inner_norm: bool):
        super().__init__()
        self.shortcut_layer: nn.Module = nn.MaxPool2d(1, stride)
        if in_planes != planes:
            self.shortcut_layer = nn.Sequential(
                nn.Conv2d(in_planes, planes, 1, stride, bias=False), nn.BatchNorm2d(planes)
            )
        inner = [nn.BatchNorm2d(planes)] if inner_norm else []
        self.res_layer = nn.Sequential(
            nn.BatchNorm2d(in_planes),
            conv3x3(in_planes, planes),
            *inner,
            nn.PReLU(planes),
            conv3x3(planes, planes, stride),
            nn.BatchNorm2d(planes),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, H, W) to (B, planes, H / stride, W / stride)."""
        return self.res_layer(x) + self.shortcut_layer(x)


class IrTrunk(nn.Module):
    """Map (B, 3, 112, 112) crops to (B, 512, 7, 7)."""

    def __init__(self, depth: int, inner_norm: bool):
        """Build stem and blocks; `inner_norm`: a BatchNorm between the first convolution of a block and its PReLU."""
        super().__init__()
        self.input_layer = nn.Sequential(conv3x3(3, WIDTHS[0]), nn.BatchNorm2d(WIDTHS[0]), nn.PReLU(WIDTHS[0]))
        blocks, in_planes = [], WIDTHS[0]
        for planes, count in zip(WIDTHS, BLOCKS[depth], strict=True):
            for i in range(count):
                blocks.append(IrBlock(in_planes, planes, 1 if i else 2, inner_norm))
                in_planes = planes
        self.body = nn.Sequential(*blocks)


class AdaFaceNet(IrTrunk):
    """Map (B, 3, 112, 112) crops to (B, 512) embeddings, not normalised: direction is identity, length quality.

    AdaFace's own code returns the pair (embedding / length, length).
    """

    def __init__(self, depth: int = 100, dropout: float = 0.0):
        """Build the layers; `depth` as in IResNet, 100 for the published IR-101."""
        super().__init__(depth, inner_norm=True)
        self.output_layer = nn.Sequential(
            nn.BatchNorm2d(512),
            nn.Dropout(dropout),
            nn.Flatten(),
            nn.Linear(512 * 7 * 7, 512),
            nn.BatchNorm1d(512, affine=False),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Return the embeddings (B, 512)."""
        return self.output_layer(self.body(self.input_layer(x)))


class SddFiqaTrunk(IrTrunk):
    """Map (B, 3, 112, 112) crops to the (B, 25088) numbers that SDD-FIQA's last Linear turns into a quality."""

    def __init__(self, depth: int = 50):
        super().__init__(depth, inner_norm=False)
        self.quality = nn.ModuleDict({"1": nn.PReLU(512 * 7 * 7)})  # 0 flattens, 2 is dropout, 3 the quality head

    def forward(self, x: Tensor) -> Tensor:
        """Return the flat maps (B, 25088)."""
        return self.quality["1"](torch.flatten(self.body(self.input_layer(x)), 1))
