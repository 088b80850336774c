"""The paired bootstrap against repeated pairs, known coverage and hand-made comparisons."""

import numpy as np
import pytest

from evaluation.measure import bootstrap as module
from evaluation.measure.bootstrap import IdentityResampling, bootstrap, compare, interval
from evaluation.measure.edc import RankedPairs, edc
from evaluation.measure.pooled import PooledSteps, ScoredPairs

GRID = np.array([0.0, 0.1, 0.25])


def case(seed=0, people=40, pairs=300):
    rng = np.random.default_rng(seed)
    identities = rng.integers(people, size=pairs) * 7 - 3
    mated = rng.normal(0.6, 0.2, pairs)
    return identities, mated, mated + rng.normal(0, 0.3, pairs), rng.integers(5, size=pairs).astype(float)


def test_each_replicate_equals_an_edc_over_repeated_pairs():
    identities, mated, fine, coarse = case()
    resampling = IdentityResampling(identities, 12, seed=3)
    result = bootstrap([RankedPairs(mated, q, 0.3) for q in (fine, coarse)], resampling, [0.2, 0.3], GRID)
    weights = np.concatenate(list(resampling.weights()))
    assert weights.shape == (12, len(mated))
    for r, weight in enumerate(weights):
        for m, quality in enumerate((fine, coarse)):
            curve = edc(np.repeat(mated, weight), np.repeat(quality, weight), 0.3)
            for limit in (0.2, 0.3):
                assert result.pauc[limit][m, r] == pytest.approx(curve.pauc(limit).normalised, abs=1e-12)
            np.testing.assert_allclose(result.fnmr[m, r], curve.at(GRID), atol=1e-12)


def test_weights_are_identity_multiplicities():
    identities = np.array([5, 5, 9, 2, 2, 2])
    weights = np.concatenate(list(IdentityResampling(identities, 200, seed=0).weights()))
    assert (weights[:, 0] == weights[:, 1]).all() and (weights[:, 3] == weights[:, 5]).all()
    assert (weights[:, 0] + weights[:, 2] + weights[:, 3] == 3).all(), "three identities are drawn each time"
    assert np.abs(weights.mean(0) - 1).max() < 0.2


def test_chunking_changes_nothing(monkeypatch):
    identities = case()[0]
    whole = np.concatenate(list(IdentityResampling(identities, 50, seed=1).weights()))
    monkeypatch.setattr(module, "_CELLS", 7 * len(identities))
    chunks = list(IdentityResampling(identities, 50, seed=1).weights())
    assert len(chunks) == 8
    np.testing.assert_array_equal(np.concatenate(chunks), whole)


def test_constant_quality_is_one_in_every_replicate():
    identities, mated, *_ = case()
    method = RankedPairs(mated, np.zeros(len(mated)), 0.3)
    result = bootstrap([method], IdentityResampling(identities, 50, 0), [0.3], GRID)
    assert (result.pauc[0.3] == 1.0).all()


def test_random_quality_has_an_interval_around_one_and_a_perfect_one_is_better():
    identities, mated, *_ = case(pairs=2000)
    rng = np.random.default_rng(8)
    methods = [RankedPairs(mated, q, 0.3) for q in (rng.normal(size=2000), mated)]
    points = [method.curve().pauc(0.3).normalised for method in methods]
    result = bootstrap(methods, IdentityResampling(identities, 400, 0), [0.3], GRID).pauc[0.3]
    low, high, used = interval(result[0])
    assert low < 1 < high and used == 400
    comparison = compare(points[1], points[0], result[1], result[0])
    assert comparison.difference == points[1] - points[0]
    assert comparison.low < comparison.difference < comparison.high < 0
    assert comparison.probability_better == 1.0


def test_pairing_narrows_the_difference_of_two_alike_methods():
    identities, mated, fine, _ = case(pairs=1000)
    alike = fine + np.random.default_rng(4).normal(0, 0.02, 1000)
    methods = [RankedPairs(mated, q, 0.3) for q in (fine, alike)]
    result = bootstrap(methods, IdentityResampling(identities, 300, 0), [0.3], GRID).pauc[0.3]
    paired = interval(result[0] - result[1])
    single = interval(result[0])
    assert paired.high - paired.low < 0.5 * (single.high - single.low)


def test_a_replicate_without_error_is_left_out_and_counted():
    identities = np.arange(10)
    mated = np.array([0.0] + [1.0] * 9)
    result = bootstrap([RankedPairs(mated, np.arange(10.0), 0.5)], IdentityResampling(identities, 300, 0), [0.2], GRID)
    values = result.pauc[0.2][0]
    used = interval(values).replicates
    assert used == np.count_nonzero(~np.isnan(values))
    assert 0.55 < used / 300 < 0.75, "an identity is missed in (1 - 1/10)^10 = 35 % of replicates"
    assert np.isnan(interval(np.full(3, np.nan))[:2]).all()


def test_compare_by_hand():
    comparison = compare(0.5, 0.6, np.array([0.4, 0.5, 0.6, np.nan]), np.array([0.6, 0.5, 0.5, 0.1]))
    assert comparison.difference == pytest.approx(-0.1)
    assert comparison.probability_better == pytest.approx(0.5)
    assert comparison.low == pytest.approx(np.percentile([-0.2, 0, 0.1], 2.5))


def test_pooled_rule_keeps_the_thresholds_and_cuts_of_the_full_sample():
    identities, mated, fine, _ = case()
    rng = np.random.default_rng(2)
    method = PooledSteps(ScoredPairs(mated, rng.normal(0, 0.2, 300), fine, rng.normal(size=300)), 0.05, 0.3)
    resampling = IdentityResampling(identities, 5, seed=3)
    result = bootstrap([method], resampling, [0.3], GRID).pauc[0.3][0]
    for weight, value in zip(np.concatenate(list(resampling.weights())), result, strict=True):
        repeated = [np.repeat(rows, weight, axis=1) for rows in (method.kept, method.wrong)]
        errors = repeated[1].sum(1) / repeated[0].sum(1)
        area = ((errors[1:] + errors[:-1]) / 2 * 0.05).sum()
        assert value == pytest.approx(area / (errors[0] * 0.3), abs=1e-12)
