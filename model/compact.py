"""A small backbone for 112x112 crops, made to be trained on a CPU in minutes."""

import torch
from torch import Tensor, nn

from model.iresnet import conv3x3


class CompactBlock(nn.Module):
    """Two 3x3 convolutions with BatchNorm around a ReLU, added to the shortcut; the first may halve the size.

    The shortcut halves by averaging (He et al. 2019, ResNet-D): nothing is thrown away.
    """

    def __init__(self, in_planes: int, planes: int, stride: int = 1):
        super().__init__()
        self.conv1 = conv3x3(in_planes, planes, stride)
        self.bn1 = nn.BatchNorm2d(planes)
        self.relu = nn.ReLU(inplace=True)
        self.conv2 = conv3x3(planes, planes)
        self.bn2 = nn.BatchNorm2d(planes)
        self.downsample = None
        if stride != 1 or in_planes != planes:
            shortcut = nn.Conv2d(in_planes, planes, kernel_size=1, bias=False)
            self.downsample = nn.Sequential(nn.AvgPool2d(stride), shortcut, nn.BatchNorm2d(planes))

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, H, W) to (B, planes, H / stride, W / stride)."""
        out = self.bn2(self.conv2(self.relu(self.bn1(self.conv1(x)))))
        return self.relu(out + (x if self.downsample is None else self.downsample(x)))


class CompactNet(nn.Module):
    """Map (B, 3, 112, 112) crops to (B, num_features) embeddings; ordinary convolutions, narrow, early stride."""

    def __init__(
        self,
        num_features: int = 128,
        dropout: float = 0.0,
        width: int = 16,
        blocks: int = 1,
        features_grad: bool = False,
    ):
        """Build the stages.

        dropout: rate before `fc`. width: channels of the stem, doubled at each of the three stages. blocks: per stage.
        features_grad: train the last BatchNorm's weight; else it stays 1, as in IResNet.
        """
        super().__init__()
        self.conv1 = nn.Conv2d(3, width, kernel_size=3, stride=2, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.relu = nn.ReLU(inplace=True)
        stages = []
        for stage in range(3):
            planes = width * 2 ** (stage + 1)
            stages.append(CompactBlock(planes // 2, planes, 2))
            stages += [CompactBlock(planes, planes) for _ in range(blocks - 1)]
        self.layers = nn.Sequential(*stages)
        self.dropout = nn.Dropout(p=dropout)
        self.fc = nn.Linear(8 * width * 7 * 7, num_features)
        self.features = nn.BatchNorm1d(num_features)
        self.features.weight.requires_grad_(features_grad)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_in", nonlinearity="relu")

    def forward(self, x: Tensor) -> Tensor:
        """Return the embeddings (B, num_features)."""
        x = self.layers(self.relu(self.bn1(self.conv1(x))))
        return self.features(self.fc(self.dropout(torch.flatten(x, 1))))
