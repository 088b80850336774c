"""Label sources: the same label in any batch and order, draws by seed and name, the length of an embedding."""

import math

import numpy as np
import pytest
import torch

from model.label_sources.faceqan import FaceQan, FaceQanConfig
from model.label_sources.grafiqs import Grafiqs, GrafiqsConfig
from model.label_sources.magnitude import Magnitude
from model.label_sources.ser_fiq import SerFiq, SerFiqConfig
from tests.helpers.label_sources import NAMES, SEED, frozen, noise_crops, normalised, pixels
from tests.helpers.tiny_networks import Convolutional, randomised, tiny_net


@pytest.fixture
def images() -> torch.Tensor:
    return noise_crops()


def make(name: str, network, rows: int = 64):
    return {
        "ser_fiq": lambda: SerFiq(frozen(network), SerFiqConfig(passes=7), SEED, rows),
        "faceqan": lambda: FaceQan(frozen(network), FaceQanConfig(copies=3, iterations=2), SEED, rows),
        "grafiqs": lambda: Grafiqs(frozen(network), GrafiqsConfig(), rows=rows),
        "magnitude": lambda: Magnitude(frozen(network)),
    }[name]()


@pytest.mark.parametrize("name", ["ser_fiq", "faceqan", "grafiqs", "magnitude"])
def test_labels_depend_neither_on_batch_nor_on_order(images, name):
    network = tiny_net(dropout=0.5)
    whole = make(name, network).scores(images, NAMES)
    assert whole.dtype == np.float64 and whole.shape == (len(NAMES),)
    order = [4, 0, 6, 2, 1, 5, 3]
    for rows in (1, 6):
        source = make(name, network, rows)
        single = {NAMES[i]: source.scores(images[i : i + 1], [NAMES[i]])[0] for i in order}
        np.testing.assert_allclose([single[name] for name in NAMES], whole, rtol=1e-5, atol=1e-5)
        shuffled = source.scores(images[order], [NAMES[i] for i in order])
        np.testing.assert_allclose(shuffled, whole[order], rtol=1e-5, atol=1e-5)


def test_draws_depend_on_seed_and_key(images):
    network = tiny_net(dropout=0.5)
    twins = images[:1].repeat(2, 1, 1, 1)
    first = SerFiq(frozen(network), SerFiqConfig(passes=5), 1)
    a, b = first.scores(twins, ["a.jpg", "b.jpg"])
    assert a != b
    assert SerFiq(frozen(network), SerFiqConfig(passes=5), 2).scores(twins[:1], ["a.jpg"])[0] != a


def test_magnitude_is_the_length_of_the_raw_embedding(images):
    network = tiny_net()
    wanted = [math.sqrt(sum(v**2 for v in network(normalised(pixels(i))[None])[0].tolist())) for i in images]
    np.testing.assert_allclose(make("magnitude", network).scores(images, NAMES), wanted, rtol=1e-5)


def test_sources_take_the_first_of_several_outputs(images):
    source = Magnitude(frozen(randomised(Convolutional())))
    assert source.scores(images, NAMES).shape == (len(NAMES),)
