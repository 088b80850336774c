"""SER-FIQ: against passes of the whole network one by one, wherever the dropout sits; how often the trunk runs."""

import itertools
import math

import numpy as np
import pytest
import torch

from model.label_sources.ser_fiq import DropoutConfig, SerFiq, SerFiqConfig
from tests.helpers.label_sources import NAMES, SEED, frozen, generator_of, noise_crops, normalised, pixels
from tests.helpers.tiny_networks import Convolutional, Shortcut, TinyNet, randomised, tiny_net
from utils.errors import ConfigError


@pytest.fixture
def images() -> torch.Tensor:
    return noise_crops()


def ser_fiq_of(embeddings: list[np.ndarray]) -> float:
    units = [e / np.sqrt((e * e).sum()) for e in embeddings]
    distances = [np.sqrt(((a - b) ** 2).sum()) for a, b in itertools.combinations(units, 2)]
    return 2 / (1 + math.exp(sum(distances) / len(distances)))


def slow_ser_fiq(network, image, name, passes, rate) -> float:
    generator, embeddings = generator_of(name), []
    kept = torch.rand(passes, network.fc.in_features, generator=generator) >= rate
    for t in range(passes):  # the whole network each time, one image, one pass
        dropped = network.trunk(normalised(pixels(image))[None])[0].clone()
        for i in range(len(dropped)):
            dropped[i] = dropped[i] / (1 - rate) if kept[t, i] else 0.0
        embeddings.append(network.features(network.fc(dropped[None]))[0].detach().double().numpy())
    return ser_fiq_of(embeddings)


@pytest.mark.parametrize("own", [True, False])
def test_ser_fiq_equals_literal_passes(images, own):
    network = tiny_net(dropout=0.4 if own else 0.0)
    cfg = SerFiqConfig(passes=9, dropout=DropoutConfig() if own else DropoutConfig(rate=0.4))
    source = SerFiq(frozen(network), cfg, SEED)
    wanted = [slow_ser_fiq(network, image, name, 9, 0.4) for image, name in zip(images, NAMES, strict=True)]
    np.testing.assert_allclose(source.scores(images, NAMES), wanted, atol=1e-5)
    assert max(wanted) - min(wanted) > 0.01  # the images differ, so agreement means something
    assert source.rates == ({"dropout": 0.4} if own else {"fc": 0.4})
    assert ("imposed before fc of TinyNet" in source.remark) is not own


def test_ser_fiq_runs_the_trunk_once_when_dropout_sits_before_the_last_layer(images):
    network = tiny_net(dropout=0.4)
    rows = {"conv1": 0, "fc": 0}
    source = SerFiq(frozen(network), SerFiqConfig(passes=10), SEED)
    for name in rows:
        getattr(network, name).register_forward_hook(
            lambda _, inputs, output, name=name: rows.update({name: rows[name] + len(output)})
        )
    source.scores(images, NAMES)
    assert rows == {"conv1": len(NAMES), "fc": (1 + 10) * len(NAMES)}  # once for the embedding itself


class Untraceable(TinyNet):
    """Look at values on the way: the network cannot be cut in two without running it."""

    def forward(self, x):
        return super().forward(x if x.abs().max() >= 0 else -x)


def test_ser_fiq_runs_the_trunk_once_where_the_network_cannot_be_cut_in_two(images):
    network, cut = randomised(Untraceable(dropout=0.4)), tiny_net(dropout=0.4)
    rows = []
    source = SerFiq(frozen(network), SerFiqConfig(passes=10), SEED)
    network.conv1.register_forward_hook(lambda _, __, output: rows.append(len(output)))
    found = source.scores(images, NAMES)
    assert source.behind is None and sum(rows) == len(NAMES)
    np.testing.assert_allclose(
        found, SerFiq(frozen(cut), SerFiqConfig(passes=10), SEED).scores(images, NAMES), atol=1e-6
    )


def test_ser_fiq_runs_the_whole_network_when_a_shortcut_leads_around_the_dropout(images):
    network = randomised(Shortcut())
    source = SerFiq(frozen(network), SerFiqConfig(passes=6), SEED)
    assert not source.runs_trunk_once
    wanted = []
    for image, name in zip(images, NAMES, strict=True):
        generator, x = generator_of(name), normalised(pixels(image)).flatten()
        early = torch.rand(6, x.numel(), generator=generator) >= 0.3
        late = torch.rand(6, x.numel(), generator=generator) >= 0.5
        embeddings = []
        for t in range(6):
            hidden = x + network.inner(x * early[t] / 0.7)
            embeddings.append(network.fc(hidden * late[t] / 0.5).detach().double().numpy())
        wanted.append(ser_fiq_of(embeddings))
    np.testing.assert_allclose(source.scores(images, NAMES), wanted, atol=1e-5)


def test_ser_fiq_of_identical_embeddings_is_one(images):
    source = SerFiq(frozen(tiny_net()), SerFiqConfig(passes=5, dropout=DropoutConfig(rate=1e-9)), SEED)
    np.testing.assert_allclose(source.scores(images, NAMES), 1.0, atol=1e-7)


def test_ser_fiq_names_what_is_missing():
    with pytest.raises(ConfigError, match=r"TinyNet has no active dropout layer.*rate=0\.4"):
        SerFiq(frozen(tiny_net()), SerFiqConfig(), SEED)
    with pytest.raises(ConfigError, match=r"no module 'head'; known are .*fc"):
        SerFiq(frozen(tiny_net()), SerFiqConfig(dropout=DropoutConfig(rate=0.4, before="head")), SEED)
    with pytest.raises(ConfigError, match="Convolutional has no Linear layer"):
        SerFiq(frozen(Convolutional()), SerFiqConfig(dropout=DropoutConfig(rate=0.4)), SEED)
