"""Folding BatchNorm into convolutions changes the cost of a network and nothing else."""

import numpy as np
import pytest
import torch
from torch import nn

from model.ai_kd import WrapperModel
from model.compact import CompactNet
from model.frozen.fold import fold_batchnorm
from model.frozen.network import TorchNetwork
from model.iresnet import IResNet
from model.mlp import MLP
from model.mobilefacenet import MobileFaceNet
from utils.contract import InputContract


def lived_in(network: nn.Module) -> nn.Module:
    """Give every BatchNorm statistics and an affine map of its own."""
    torch.manual_seed(3)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.3)
            module.running_var.uniform_(0.5, 2)
            nn.init.normal_(module.bias, 0, 0.2)
    return network.eval()


def count(network: nn.Module) -> int:
    return sum(isinstance(module, nn.BatchNorm2d) for module in network.modules())


@pytest.mark.parametrize(
    ("make", "left"),
    [
        (lambda: CompactNet(num_features=8, width=4), 0),
        (lambda: MobileFaceNet(num_features=8), 0),
        (lambda: IResNet((1, 1, 1, 1), num_features=8), 5),  # one in front of each block, one behind the last
    ],
)
def test_the_function_stays_the_same(make, left):
    network = WrapperModel(lived_in(make()), MLP(8, 16)).eval().double()
    before = {key: value.clone() for key, value in network.state_dict().items()}
    x = torch.randn(2, 3, 112, 112, dtype=torch.float64)
    folded = fold_batchnorm(network)
    with torch.no_grad():
        for found, wanted in zip(folded(x), network(x), strict=True):
            torch.testing.assert_close(found, wanted, rtol=1e-9, atol=1e-9)
    assert count(folded) == left < count(network)
    assert all(torch.equal(value, before[key]) for key, value in network.state_dict().items())


class ReadTwice(nn.Module):
    """Use the convolution's output beside its BatchNorm: folding would change the sum."""

    def __init__(self):
        super().__init__()
        self.conv, self.bn = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)

    def forward(self, x):
        y = self.conv(x)
        return self.bn(y) + y


class UsedTwice(ReadTwice):
    """Call one pair twice."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 3)
        self.bn = nn.BatchNorm2d(3)

    def forward(self, x):
        return self.bn(self.conv(self.bn(self.conv(x))))


class Untraceable(ReadTwice):
    """Let the values decide the way."""

    def forward(self, x):
        y = self.bn(self.conv(x))
        return y if y.mean() > 0 else -y


@pytest.mark.parametrize("kind", [ReadTwice, UsedTwice, Untraceable])
def test_what_cannot_be_folded_is_left_alone(kind):
    network = lived_in(kind())
    folded = fold_batchnorm(network)
    assert count(folded) == 1
    x = torch.randn(2, 3, 16, 16)
    with torch.no_grad():
        assert torch.equal(folded(x), network(x))


@pytest.mark.parametrize("images", [0, 1, 8, 17])
def test_a_scorer_gives_each_image_the_score_it_has_alone(images):
    torch.set_num_threads(1)  # pieces of 8
    student = WrapperModel(lived_in(CompactNet(num_features=8, width=4)), MLP(8, 16)).eval()
    crops = torch.randint(0, 256, (images, 112, 112, 3), dtype=torch.uint8)
    found = TorchNetwork(student, InputContract(), torch.device("cpu"), folded=True).qualities(crops)
    with torch.no_grad():
        alone = [student((crop.permute(2, 0, 1)[None] / 255 - 0.5) / 0.5)[1].item() for crop in crops]
    assert found.dtype == np.float32 and found.shape == (images,)
    np.testing.assert_allclose(found, alone, rtol=0, atol=1e-5)
