"""Each label source against a slow, literal implementation written from its definition."""

import hashlib
import itertools
import math

import numpy as np
import pytest
import torch
from scipy.stats import wasserstein_distance

from model.compact import CompactNet
from model.frozen.network import TorchNetwork
from model.label_sources.faceqan import FaceQan, FaceQanConfig
from model.label_sources.grafiqs import Grafiqs, GrafiqsConfig
from model.label_sources.magnitude import Magnitude
from model.label_sources.sdd_fiqa import SddFiqa, SddFiqaConfig, wasserstein
from model.label_sources.ser_fiq import DropoutConfig, SerFiq, SerFiqConfig
from tests.helpers.tiny_networks import Convolutional, Shortcut, TinyNet, randomised, tiny_net
from utils.contract import InputContract
from utils.errors import ConfigError, DataError

SIZE = 16
CONTRACT = InputContract(size_px=SIZE, mean=(0.5, 0.4, 0.3), std=(0.5, 0.25, 0.4))
SEED = 11
NAMES = [f"id_{i // 3}/{i}.jpg" for i in range(7)]


@pytest.fixture
def images() -> torch.Tensor:
    return torch.randint(0, 256, (len(NAMES), SIZE, SIZE, 3), generator=torch.Generator().manual_seed(5)).to(
        torch.uint8
    )


def frozen(module: torch.nn.Module) -> TorchNetwork:
    return TorchNetwork(module, CONTRACT, torch.device("cpu"))


def pixels(image: torch.Tensor) -> torch.Tensor:
    """One uint8 crop (S, S, 3) as (3, S, S) in [0, 1]."""
    return image.permute(2, 0, 1).float() / 255


def normalised(pixel: torch.Tensor) -> torch.Tensor:
    return (pixel - torch.tensor(CONTRACT.mean).view(3, 1, 1)) / torch.tensor(CONTRACT.std).view(3, 1, 1)


def seed_of(name: str) -> int:
    return int.from_bytes(hashlib.blake2b(f"{SEED}\0{name}".encode(), digest_size=8).digest(), "big") // 2


def generator_of(name: str) -> torch.Generator:
    return torch.Generator().manual_seed(seed_of(name))


# SER-FIQ


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


# FaceQAN


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


# GraFIQs


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


# SDD-FIQA


def slow_sdd_fiqa(embeddings, identities, names, cfg) -> list[float]:
    def cosine(a, b):
        return float(a @ b / np.sqrt((a @ a) * (b @ b)))

    vectors = embeddings.astype(np.float64)
    order = sorted(range(len(names)), key=lambda row: (identities[row], row))
    rounds = [{} for _ in range(cfg.rounds)]
    for row in range(len(names)):
        same = [other for other in order if identities[other] == identities[row] and other != row]
        others = [other for other in order if identities[other] != identities[row]]
        if not same:
            continue
        rng = np.random.default_rng(seed_of(names[row]))
        for distances in rounds:
            drawn = rng.choice(len(same), min(cfg.partners, len(same)), replace=False)
            intra = [cosine(vectors[row], vectors[same[i]]) for i in drawn]
            drawn = rng.choice(len(others), min(cfg.partners, len(others)), replace=False)
            inter = [cosine(vectors[row], vectors[others[i]]) for i in drawn]
            distances[row] = wasserstein_distance(intra, inter)
    labels = []
    for row in range(len(names)):
        scaled = [
            (distances[row] - min(distances.values())) / (max(distances.values()) - min(distances.values()))
            for distances in rounds
            if row in distances
        ]
        labels.append(sum(scaled) / len(scaled) if scaled else math.nan)
    return labels


@pytest.fixture
def population() -> tuple[np.ndarray, np.ndarray, list[str]]:
    rng = np.random.default_rng(3)
    identities = np.array([0] * 9 + [1] * 2 + [2] + [3] * 5)
    centres = rng.normal(size=(4, 8))
    embeddings = (centres[identities] + rng.normal(size=(17, 8))).astype(np.float32)
    shuffled = rng.permutation(17)  # members of an identity need not be neighbours
    return embeddings[shuffled], identities[shuffled], [f"{identities[i]}/{i}.jpg" for i in shuffled]


@pytest.mark.parametrize("partners", [3, 24])
def test_sdd_fiqa_equals_literal_rounds(population, partners):
    embeddings, identities, names = population
    cfg = SddFiqaConfig(partners=partners, rounds=4)
    source = SddFiqa(frozen(tiny_net()), cfg, SEED)
    labels = source.finish(embeddings, identities, names)
    np.testing.assert_allclose(labels, slow_sdd_fiqa(embeddings, identities, names, cfg), atol=2e-6, equal_nan=True)
    assert np.isnan(labels).tolist() == (identities == 2).tolist()
    assert np.nanmin(labels) >= 0 and np.nanmax(labels) <= 1


def test_wasserstein_equals_scipy_for_unequal_sample_sizes():
    rng = np.random.default_rng(0)
    for same, other, padding in [(1, 1, 0), (1, 24, 23), (24, 24, 0), (7, 3, 38)]:
        a, b = rng.normal(size=same).round(1), rng.normal(size=other).round(1)
        value = np.concatenate([a, b, np.full(padding, a[0])])
        weight = np.concatenate([np.full(same, 1 / same), np.full(other, -1 / other), np.zeros(padding)])
        assert wasserstein(value[None], weight[None])[0] == pytest.approx(wasserstein_distance(a, b), abs=1e-12)


def test_sdd_fiqa_needs_two_identities():
    source = SddFiqa(frozen(tiny_net()), SddFiqaConfig(), SEED)
    for identities in ([4, 4, 4], [0, 1, 2]):
        with pytest.raises(DataError, match="at least two identities"):
            source.finish(np.ones((3, 4), np.float32), np.array(identities), ["a", "b", "c"])


# all of them


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
