"""MobileFaceNet (Chen, Liu, Gao and Han 2018, table 1): about 1 M parameters, for 112x112 crops."""

import torch
from torch import Tensor, nn

# expansion, output channels, repetitions, stride of the first repetition
BOTTLENECKS = ((2, 64, 5, 2), (4, 128, 1, 2), (2, 128, 6, 1), (4, 128, 1, 2), (2, 128, 2, 1))


class ConvNorm(nn.Sequential):
    """Convolve without bias, normalise and, unless `linear`, apply PReLU."""

    def __init__(self, planes: tuple[int, int], kernel: int, stride: int = 1, groups: int = 1, linear: bool = False):
        """Build the layers; `planes` is (in, out). Odd kernels keep the size at stride 1, a kernel of 7 spans it."""
        padding = 0 if kernel == 7 else kernel // 2
        layers = [nn.Conv2d(*planes, kernel, stride, padding, groups=groups, bias=False), nn.BatchNorm2d(planes[1])]
        super().__init__(*layers, *([] if linear else [nn.PReLU(planes[1])]))


class Bottleneck(nn.Module):
    """Expand by 1x1, filter depthwise, project linearly; add the input when shape and stride allow."""

    def __init__(self, in_planes: int, planes: int, expansion: int, stride: int):
        super().__init__()
        wide = in_planes * expansion
        self.expand = ConvNorm((in_planes, wide), 1)
        self.depthwise = ConvNorm((wide, wide), 3, stride, groups=wide)
        self.project = ConvNorm((wide, planes), 1, linear=True)
        self.residual = stride == 1 and in_planes == planes

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, H, W) to (B, planes, H / stride, W / stride)."""
        out = self.project(self.depthwise(self.expand(x)))
        return x + out if self.residual else out


class MobileFaceNet(nn.Module):
    """Map (B, 3, 112, 112) crops to (B, num_features) embeddings.

    The global average pool is a 7x7 depthwise convolution (GDConv), so that places in the crop weigh differently.
    """

    def __init__(self, num_features: int = 128, dropout: float = 0.0):
        """Build the stages; `dropout` is the rate before `fc`."""
        super().__init__()
        self.conv1 = ConvNorm((3, 64), 3, 2)
        self.conv2 = ConvNorm((64, 64), 3, groups=64)
        layers, planes = [], 64
        for expansion, out_planes, repetitions, stride in BOTTLENECKS:
            for repetition in range(repetitions):
                layers.append(Bottleneck(planes, out_planes, expansion, 1 if repetition else stride))
                planes = out_planes
        self.layers = nn.Sequential(*layers)
        self.conv3 = ConvNorm((planes, 512), 1)
        self.gdconv = ConvNorm((512, 512), 7, groups=512, linear=True)
        self.dropout = nn.Dropout(p=dropout)
        self.fc = nn.Linear(512, num_features, bias=False)  # the paper's linear 1x1 convolution
        self.features = nn.BatchNorm1d(num_features)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, a=0.25, mode="fan_in", nonlinearity="leaky_relu")

    def forward(self, x: Tensor) -> Tensor:
        """Return the embeddings (B, num_features)."""
        x = self.gdconv(self.conv3(self.layers(self.conv2(self.conv1(x)))))
        return self.features(self.fc(self.dropout(torch.flatten(x, 1))))
