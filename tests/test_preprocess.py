"""uint8 crops -> network input, the one preprocessing."""

import numpy as np
import pytest
import torch
from torchvision.transforms import Compose, Normalize, ToTensor

from model.frozen.network import normalise
from utils.contract import InputContract
from utils.errors import ContractError


@pytest.mark.parametrize("mean, std", [((0.5,) * 3, (0.5,) * 3), ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))])
def test_equals_torchvision_bit_for_bit(mean, std):
    images = np.random.default_rng(0).integers(0, 256, (3, 112, 112, 3), dtype=np.uint8)
    transform = Compose([ToTensor(), Normalize(mean, std)])
    expected = torch.stack([transform(image) for image in images])
    given = torch.from_numpy(images.copy())
    got = normalise(given, InputContract(mean=mean, std=std))
    assert got.dtype == torch.float32 and got.shape == (3, 3, 112, 112)
    assert torch.equal(got, expected)
    assert torch.equal(given, torch.from_numpy(images))  # the batch itself is left alone


def test_is_channels_last_for_both_channel_orders():
    images = torch.zeros(2, 112, 112, 3, dtype=torch.uint8)
    images[..., 0], images[..., 2] = 255, 51
    for channels, expected in (("RGB", [1.0, -1.0, -0.6]), ("BGR", [-0.6, -1.0, 1.0])):
        x = normalise(images, InputContract(channels=channels))
        assert x.is_contiguous(memory_format=torch.channels_last)
        torch.testing.assert_close(x[0, :, 5, 7], torch.tensor(expected))


def test_pixel_range_maps_to_minus_one_and_one():
    images = torch.tensor([0, 255], dtype=torch.uint8).view(2, 1, 1, 1).expand(2, 112, 112, 3)
    assert normalise(images, InputContract()).unique().tolist() == [-1.0, 1.0]


@pytest.mark.parametrize(
    "images",
    [
        torch.zeros(1, 96, 112, 3, dtype=torch.uint8),
        torch.zeros(1, 3, 112, 112, dtype=torch.uint8),
        torch.zeros(1, 112, 112, 3),
    ],
)
def test_refuses_another_size_order_or_type(images):
    with pytest.raises(ContractError, match="112x112x3"):
        normalise(images, InputContract())


def test_refuses_an_unknown_channel_order():
    with pytest.raises(ContractError, match="'GBR'"):
        normalise(torch.zeros(1, 112, 112, 3, dtype=torch.uint8), InputContract(channels="GBR"))


def test_smaller_contract():
    assert normalise(torch.zeros(2, 32, 32, 3, dtype=torch.uint8), InputContract(size_px=32)).shape == (2, 3, 32, 32)
