"""FaceQAN: against a literal attack, one image at a time; how many passes it takes."""

import math

import numpy as np
import pytest
import torch

from model.compact import CompactNet
from model.frozen.network import TorchNetwork
from model.label_sources.faceqan import FaceQan, FaceQanConfig
from tests.helpers.label_sources import NAMES, SEED, SIZE, frozen, generator_of, noise_crops, normalised, pixels
from tests.helpers.tiny_networks import randomised, tiny_net
from utils.contract import InputContract


@pytest.fixture
def images() -> torch.Tensor:
    return noise_crops()


def slow_faceqan(network, image, name, cfg) -> float:
    def embed(pixel):
        return network(normalised(pixel)[None])[0]

    def cosine(a, b):
        return (a * b).sum() / (a.norm() * b.norm())

    pixel = pixels(image)
    base = embed(pixel).detach()
    noise = torch.rand(cfg.copies, 3, SIZE, SIZE, generator=generator_of(name)) * 2 * cfg.epsilon - cfg.epsilon
    recorded = []
    for copy in range(cfg.copies):
        noisy = (pixel + noise[copy]).clamp(max=1)  # pixels, in [0, 1], of the noisy image; not after the steps
        for _ in range(cfg.iterations):
            noisy = noisy.detach().requires_grad_(True)
            value = cosine(embed(noisy), base)
            recorded.append(value.item())
            (1 - value).backward()
            noisy = noisy + cfg.epsilon * noisy.grad.sign()
    mean = sum(recorded) / len(recorded)
    deviation = math.sqrt(sum((s - mean) ** 2 for s in recorded) / len(recorded))
    mirrored = torch.stack([torch.stack([row.flip(0) for row in channel]) for channel in pixel])
    symmetry = cosine(base, embed(mirrored)).item()
    return ((1 + mean) / 2 * min(max(1 - deviation, 0), 1) * symmetry) ** 5


@pytest.mark.parametrize("rows", [64, 4])
def test_faceqan_equals_literal_attack(images, rows):
    network, cfg = tiny_net(), FaceQanConfig(copies=4, iterations=3, epsilon=0.02)
    source = FaceQan(frozen(network), cfg, SEED, rows)
    wanted = [slow_faceqan(network, image, name, cfg) for image, name in zip(images, NAMES, strict=True)]
    np.testing.assert_allclose(source.scores(images, NAMES), wanted, atol=1e-5)
    assert np.ptp(wanted) > 0.01


def test_faceqan_keeps_noise_below_white(images):
    """On saturated pixels only: there the score is another than without the limit."""
    network, cfg = tiny_net(), FaceQanConfig(copies=4, iterations=2, epsilon=0.05)
    white = torch.full_like(images, 255)
    white[:, 4:9, 3:8] = 90
    source = FaceQan(frozen(network), cfg, SEED)
    wanted = [slow_faceqan(network, image, name, cfg) for image, name in zip(white, NAMES, strict=True)]
    found = source.scores(white, NAMES)
    np.testing.assert_allclose(found, wanted, atol=1e-5)
    source.white = torch.full_like(source.white, torch.inf)
    assert np.abs(source.scores(white, NAMES) - found).max() > 1e-4


def test_faceqan_takes_l_forward_and_l_minus_one_backward_passes(images):
    network = tiny_net()
    source = FaceQan(frozen(network), FaceQanConfig(), SEED, rows=10)
    rows = {"forward": 0, "backward": 0}
    network.fc.register_forward_hook(lambda _, __, output: rows.update(forward=rows["forward"] + len(output)))
    network.conv2.register_full_backward_hook(lambda _, __, grad: rows.update(backward=rows["backward"] + len(grad[0])))
    source.scores(images[:1], NAMES[:1])
    assert rows == {"forward": 50 + 2, "backward": 40}  # and the image with its mirror image


def test_faceqan_noise_that_decides_signs_does_not_depend_on_the_batch():
    """With small epsilon the first gradients are of the size of float32 noise."""
    network = randomised(CompactNet(num_features=8, width=4), seed=1)
    coarse = torch.rand(9, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    smooth = torch.nn.functional.interpolate(coarse, 112, mode="bicubic").clamp(0, 1).mul(255).byte()
    crops, names = smooth.permute(0, 2, 3, 1).contiguous(), [f"{i}.jpg" for i in range(9)]
    source = FaceQan(TorchNetwork(network, InputContract(), torch.device("cpu")), FaceQanConfig(), SEED, rows=20)
    whole = source.scores(crops, names)
    alone = [source.scores(crops[i : i + 1], names[i : i + 1])[0] for i in range(9)]
    np.testing.assert_allclose(alone, whole, rtol=0, atol=1e-7)
