"""GraFIQs: against the loss written out, one image at a time; neither hooks nor memory stay behind."""

import numpy as np
import pytest
import torch

from model.label_sources.grafiqs import Grafiqs, GrafiqsConfig
from tests.helpers.label_sources import NAMES, frozen, noise_crops, normalised, pixels
from tests.helpers.tiny_networks import Convolutional, tiny_net
from utils.errors import ConfigError


@pytest.fixture
def images() -> torch.Tensor:
    return noise_crops()


def slow_grafiqs(network, image, tap) -> float:
    x = normalised(pixels(image))[None].requires_grad_(True)
    before1 = network.conv1(x)
    after1 = network.bn1(before1)
    before2 = network.conv2(torch.relu(after1))
    total = 0.0
    for norm, value in ((network.bn1, before1), (network.bn2, before2)):
        channels = value.shape[1]
        for c in range(channels):
            flat = value[0, c].flatten()
            mean = flat.sum() / len(flat)
            variance = ((flat - mean) ** 2).sum() / len(flat)
            total = total + (mean - norm.running_mean[c]) ** 2 / channels
            total = total + (variance - norm.running_var[c]) ** 2 / channels
    (gradient,) = torch.autograd.grad(total / 2, {"image": x, "bn1": after1, "conv2": before2}[tap])
    return -gradient.abs().sum().item()


@pytest.mark.parametrize("tap", ["image", "bn1", "conv2"])
def test_grafiqs_equals_one_image_at_a_time(images, tap):
    network = tiny_net()
    source = Grafiqs(frozen(network), GrafiqsConfig(tap=tap), rows=3)
    wanted = [slow_grafiqs(network, image, tap) for image in images]
    np.testing.assert_allclose(source.scores(images, NAMES), wanted, rtol=1e-5)
    assert np.ptp(wanted) > 0.01


def test_grafiqs_names_what_is_missing(images):
    with pytest.raises(ConfigError, match="Convolutional has no BatchNorm2d"):
        Grafiqs(frozen(Convolutional()), GrafiqsConfig())
    with pytest.raises(ConfigError, match=r"no module 'layer9'; use image or e\.g\. one of conv1"):
        Grafiqs(frozen(tiny_net()), GrafiqsConfig(tap="layer9"))
    with pytest.raises(ConfigError, match="no BatchNorm2d of TinyNet follows fc"):
        Grafiqs(frozen(tiny_net()), GrafiqsConfig(tap="fc")).scores(images, NAMES)


def test_grafiqs_leaves_neither_hooks_nor_memory_behind(images):
    network = tiny_net()
    source = Grafiqs(frozen(network), GrafiqsConfig())
    batch, names = images[:5], NAMES[:5]

    def resident_kib() -> int:
        with open("/proc/self/status") as status:
            return next(int(line.split()[1]) for line in status if line.startswith("VmRSS"))

    for _ in range(20):
        source.scores(batch, names)
    before = resident_kib()
    for _ in range(200):
        source.scores(batch, names)
    assert resident_kib() - before < 2048
    for module in network.modules():
        assert not module._forward_hooks and not module._forward_pre_hooks and not module._backward_hooks
    assert all(parameter.grad is None for parameter in network.parameters())
