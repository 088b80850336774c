"""IResNet, the backbone of ArcFace and CosFace, with the key names of the published weights."""

import math

import torch
from torch import Tensor, nn

BLOCKS = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3), 50: (3, 4, 14, 3), 100: (3, 13, 30, 3), 200: (6, 26, 60, 6)}
WIDTHS = (64, 128, 256, 512)


def conv3x3(in_planes: int, planes: int, stride: int = 1) -> nn.Conv2d:
    """Build a 3x3 convolution without bias that keeps the size at stride 1."""
    return nn.Conv2d(in_planes, planes, kernel_size=3, stride=stride, padding=1, bias=False)


class IBasicBlock(nn.Module):
    """Add BN, conv, BN, PReLU, conv(stride), BN to the shortcut; nothing follows the sum."""

    def __init__(self, in_planes: int, planes: int, stride: int = 1, downsample: nn.Module | None = None):
        super().__init__()
        self.bn1 = nn.BatchNorm2d(in_planes)
        self.conv1 = conv3x3(in_planes, planes)
        self.bn2 = nn.BatchNorm2d(planes)
        self.prelu = nn.PReLU(planes)
        self.conv2 = conv3x3(planes, planes, stride)
        self.bn3 = nn.BatchNorm2d(planes)
        self.downsample = downsample

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, H, W) to (B, planes, H / stride, W / stride)."""
        out = self.bn3(self.conv2(self.prelu(self.bn2(self.conv1(self.bn1(x))))))
        return out + (x if self.downsample is None else self.downsample(x))


class IResNet(nn.Module):
    """Map (B, 3, 112, 112) crops to (B, num_features) embeddings, not normalised.

    There is no autocast inside: the caller's precision rules the whole trunk.
    """

    def __init__(
        self,
        blocks: tuple[int, ...],
        dropout: float = 0.0,
        num_features: int = 512,
        features_grad: bool = False,
        bn_eps: float = 1e-5,
    ):
        """Build the stages.

        dropout: rate before `fc`. features_grad: train the last BatchNorm's weight (CR-FIQA); else it stays 1.
        bn_eps: added to every BatchNorm's variance (MagFace: 2e-5).
        """
        super().__init__()
        self.in_planes = WIDTHS[0]
        self.conv1 = conv3x3(3, WIDTHS[0])
        self.bn1 = nn.BatchNorm2d(WIDTHS[0])
        self.prelu = nn.PReLU(WIDTHS[0])
        self.layer1, self.layer2, self.layer3, self.layer4 = (
            self._stage(planes, count) for planes, count in zip(WIDTHS, blocks, strict=True)
        )
        self.bn2 = nn.BatchNorm2d(WIDTHS[-1])
        self.dropout = nn.Dropout(p=dropout)
        self.fc = nn.Linear(WIDTHS[-1] * 7 * 7, num_features)
        self.features = nn.BatchNorm1d(num_features)
        initialise(self, residual_scale=1 / math.sqrt(sum(blocks)))
        self.features.weight.requires_grad_(features_grad)
        for module in self.modules():
            if isinstance(module, nn.BatchNorm2d | nn.BatchNorm1d):
                module.eps = bn_eps

    def _stage(self, planes: int, count: int) -> nn.Sequential:
        shortcut = nn.Sequential(
            nn.Conv2d(self.in_planes, planes, kernel_size=1, stride=2, bias=False), nn.BatchNorm2d(planes)
        )
        first = IBasicBlock(self.in_planes, planes, 2, shortcut)
        self.in_planes = planes
        return nn.Sequential(first, *(IBasicBlock(planes, planes) for _ in range(count - 1)))

    def forward(self, x: Tensor) -> Tensor:
        """Return the embeddings (B, num_features)."""
        x = self.prelu(self.bn1(self.conv1(x)))
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        x = torch.flatten(self.bn2(x), 1)
        return self.features(self.fc(self.dropout(x)))


def initialise(network: nn.Module, residual_scale: float) -> None:
    """Draw Kaiming fan-in weights and let each residual branch start small.

    `residual_scale` is the start weight of the BatchNorm (`bn3`) that closes a branch: with 1 / sqrt(blocks) the
    output of a random network stays of order 1 at any depth, in eval mode too, where no BatchNorm rescales it.
    """
    for name, module in network.named_modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            nn.init.kaiming_normal_(module.weight, a=0.25, mode="fan_in", nonlinearity="leaky_relu")
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        elif isinstance(module, nn.BatchNorm2d) and name.endswith("bn3"):
            nn.init.constant_(module.weight, residual_scale)


def iresnet18(
    dropout: float = 0.0, num_features: int = 512, features_grad: bool = False, bn_eps: float = 1e-5
) -> IResNet:
    """Build IResNet-18."""
    return IResNet(BLOCKS[18], dropout, num_features, features_grad, bn_eps)


def iresnet34(
    dropout: float = 0.0, num_features: int = 512, features_grad: bool = False, bn_eps: float = 1e-5
) -> IResNet:
    """Build IResNet-34."""
    return IResNet(BLOCKS[34], dropout, num_features, features_grad, bn_eps)


def iresnet50(
    dropout: float = 0.0, num_features: int = 512, features_grad: bool = False, bn_eps: float = 1e-5
) -> IResNet:
    """Build IResNet-50."""
    return IResNet(BLOCKS[50], dropout, num_features, features_grad, bn_eps)


def iresnet100(
    dropout: float = 0.0, num_features: int = 512, features_grad: bool = False, bn_eps: float = 1e-5
) -> IResNet:
    """Build IResNet-100."""
    return IResNet(BLOCKS[100], dropout, num_features, features_grad, bn_eps)


def iresnet200(
    dropout: float = 0.0, num_features: int = 512, features_grad: bool = False, bn_eps: float = 1e-5
) -> IResNet:
    """Build IResNet-200."""
    return IResNet(BLOCKS[200], dropout, num_features, features_grad, bn_eps)
