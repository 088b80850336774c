"""SDD-FIQA: against literal rounds and SciPy's Wasserstein distance."""

import math

import numpy as np
import pytest
from scipy.stats import wasserstein_distance

from model.label_sources.sdd_fiqa import SddFiqa, SddFiqaConfig, wasserstein
from tests.helpers.label_sources import SEED, frozen, seed_of
from tests.helpers.tiny_networks import tiny_net
from utils.errors import DataError


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
