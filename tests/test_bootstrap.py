"""The paired bootstrap against repeated pairs, known coverage and hand-made comparisons."""

import numpy as np
import pytest

from evaluation.measure import bootstrap as module
from evaluation.measure.bootstrap import IdentityResampling, bootstrap, compare, interval
from evaluation.measure.edc import edc
from evaluation.measure.pooled import POOLED_RULES, PooledSteps, ScoredPairs
from evaluation.measure.rules import FIXED, FixedThreshold, Target, build_rule
from evaluation.measure.thresholds import fixed_threshold

GRID = np.array([0.0, 0.1, 0.25])


def case(seed=0, people=40, pairs=300):
    rng = np.random.default_rng(seed)
    identities = rng.integers(people, size=pairs) * 7 - 3
    mated = rng.normal(0.6, 0.2, pairs)
    return identities, mated, mated + rng.normal(0, 0.3, pairs), rng.integers(5, size=pairs).astype(float)


NON_MATED = np.append(np.linspace(-0.9, 0.29, 999), 0.3)
"""Sets the threshold .3 at an FMR of 1e-3."""


def fixed(mated, *qualities):
    return FixedThreshold(
        [ScoredPairs(mated, NON_MATED, quality, np.zeros(1000)) for quality in qualities], Target(1e-3)
    )


def mated_weights(resampling):
    return np.concatenate([draw.mated for draw in resampling.draws()])


def test_each_replicate_equals_an_edc_over_repeated_pairs():
    identities, mated, fine, coarse = case()
    resampling = IdentityResampling(identities, 12, seed=3)
    result = bootstrap(fixed(mated, fine, coarse), resampling, [0.2, 0.3], GRID)
    weights = mated_weights(resampling)
    assert weights.shape == (12, len(mated))
    for r, weight in enumerate(weights):
        for m, quality in enumerate((fine, coarse)):
            curve = edc(np.repeat(mated, weight), np.repeat(quality, weight), 0.3)
            for limit in (0.2, 0.3):
                assert result.pauc[limit][m, r] == pytest.approx(curve.pauc(limit).normalised, abs=1e-12)
            np.testing.assert_allclose(result.fnmr[m, r], curve.at(GRID), atol=1e-12)


def test_weights_are_identity_multiplicities():
    identities = np.array([5, 5, 9, 2, 2, 2])
    weights = mated_weights(IdentityResampling(identities, 200, seed=0))
    assert (weights[:, 0] == weights[:, 1]).all() and (weights[:, 3] == weights[:, 5]).all()
    assert (weights[:, 0] + weights[:, 2] + weights[:, 3] == 3).all(), "three identities are drawn each time"
    assert np.abs(weights.mean(0) - 1).max() < 0.2


def test_chunking_changes_nothing(monkeypatch):
    identities = case()[0]
    whole = mated_weights(IdentityResampling(identities, 50, seed=1))
    monkeypatch.setattr(module, "_CELLS", 7 * len(identities))
    chunks = [draw.mated for draw in IdentityResampling(identities, 50, seed=1).draws()]
    assert len(chunks) == 8
    np.testing.assert_array_equal(np.concatenate(chunks), whole)


def test_constant_quality_is_one_in_every_replicate():
    identities, mated, *_ = case()
    result = bootstrap(fixed(mated, np.zeros(len(mated))), IdentityResampling(identities, 50, 0), [0.3], GRID)
    assert (result.pauc[0.3] == 1.0).all()


def test_random_quality_has_an_interval_around_one_and_a_perfect_one_is_better():
    identities, mated, *_ = case(pairs=2000)
    rng = np.random.default_rng(8)
    qualities = rng.normal(size=2000), mated
    points = [edc(mated, quality, 0.3).pauc(0.3).normalised for quality in qualities]
    result = bootstrap(fixed(mated, *qualities), IdentityResampling(identities, 400, 0), [0.3], GRID).pauc[0.3]
    low, high, used = interval(result[0])
    assert low < 1 < high and used == 400
    comparison = compare(points[1], points[0], result[1], result[0])
    assert comparison.difference == points[1] - points[0]
    assert comparison.low < comparison.difference < comparison.high < 0
    assert comparison.probability_better == 1.0


def test_pairing_narrows_the_difference_of_two_alike_methods():
    identities, mated, fine, _ = case(pairs=1000)
    alike = fine + np.random.default_rng(4).normal(0, 0.02, 1000)
    result = bootstrap(fixed(mated, fine, alike), IdentityResampling(identities, 300, 0), [0.3], GRID).pauc[0.3]
    paired = interval(result[0] - result[1])
    single = interval(result[0])
    assert paired.high - paired.low < 0.5 * (single.high - single.low)


def test_a_replicate_without_error_is_left_out_and_counted():
    identities = np.arange(10)
    mated = np.array([0.0] + [1.0] * 9)
    result = bootstrap(fixed(mated, np.arange(10.0)), IdentityResampling(identities, 300, 0), [0.2], GRID)
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


def pooled_case():
    """Return mated and non-mated pairs of 40 people, and the identities of both."""
    identities, mated, fine, _ = case()
    rng = np.random.default_rng(2)
    pairs = ScoredPairs(mated, rng.normal(0, 0.2, 300).round(2), fine, rng.normal(size=300).round(1))
    return pairs, identities, identities[rng.integers(300, size=(2, 300))]


@pytest.mark.parametrize("rule", POOLED_RULES)
def test_pooled_rules_keep_the_thresholds_and_cuts_of_the_full_sample(rule):
    pairs, identities, _ = pooled_case()
    resampling = IdentityResampling(identities, 5, seed=3)
    result = bootstrap(build_rule(rule, [pairs], Target(0.05), 0.3), resampling, [0.3], GRID).pauc[0.3][0]
    method = PooledSteps(pairs, POOLED_RULES[rule], 0.05, 0.3)
    for weight, value in zip(mated_weights(resampling), result, strict=True):
        kept, wrong = (np.stack([np.repeat(step[i], weight) for step in method.full]) for i in (1, 2))
        errors = wrong.sum(1) / kept.sum(1)
        area = ((errors[1:] + errors[:-1]) / 2 * 0.05).sum()
        assert value == pytest.approx(area / (errors[0] * 0.3), abs=1e-12)


@pytest.mark.parametrize("rule", [FIXED, *POOLED_RULES])
def test_a_redrawn_threshold_is_that_of_repeated_pairs(rule):
    """A non-mated pair counts as often as both of its people were drawn, multiplied; everything else is done anew."""
    pairs, mated_people, other_people = pooled_case()
    resampling = IdentityResampling(mated_people, 12, seed=3, non_mated=other_people)
    result = bootstrap(build_rule(rule, [pairs], Target(0.05), 0.3), resampling, [0.3], GRID)
    (draw,) = resampling.draws()
    people, counts = np.unique(mated_people, return_index=True)
    times = draw.mated[:, counts]  # (12, 40), how often each person was drawn
    np.testing.assert_array_equal(times.sum(axis=1), 40)
    first, second = (np.searchsorted(people, row) for row in other_people)
    for r in range(12):
        repeats = [draw.mated[r], times[r, first] * times[r, second]]
        repeated = ScoredPairs(*(np.repeat(pairs[i], repeats[i % 2]) for i in range(4)))
        if rule == FIXED:
            threshold = fixed_threshold(repeated.non_mated, 0.05)
            want = edc(repeated.mated, repeated.mated_quality, threshold).pauc(0.3).normalised
        else:
            fnmr = PooledSteps(repeated, POOLED_RULES[rule], 0.05, 0.3).curves(np.ones((1, len(repeated.mated)), int))[
                1
            ]
            want = ((fnmr[0, 1:] + fnmr[0, :-1]) / 2 * 0.05).sum() / (fnmr[0, 0] * 0.3)
        assert result.pauc[0.3][0, r] == pytest.approx(want, abs=1e-12)


def test_people_in_non_mated_pairs_only_are_drawn_too_and_replicates_without_a_threshold_left_out():
    """Three people; only person 0 has a mated pair, so it is missed in (2/3)^3 of the replicates."""
    resampling = IdentityResampling(np.zeros(4, int), 900, 0, non_mated=np.array([[0, 1, 2], [1, 2, 0]]))
    draws = list(resampling.draws())
    mated, non_mated = (np.concatenate([draw[i] for draw in draws]) for i in range(2))
    assert abs(np.mean(mated[:, 0] == 0) - 8 / 27) < 0.04
    alone = (mated[:, 0] == 3) | (non_mated.sum(axis=1) == 0)
    assert 0.05 < alone.mean() < 0.2, "one person drawn three times leaves no non-mated pair"
    pairs = ScoredPairs(np.array([-1, 0.2, 0.7, 0.9]), np.array([0.0, 0.3, 0.5]), np.arange(4.0), np.zeros(3))
    values = bootstrap(FixedThreshold([pairs], Target(0.5)), resampling, [0.5], GRID).pauc[0.5][0]
    undefined = alone | (mated[:, 0] == 0) | (np.floor(0.5 * non_mated.sum(axis=1)) == 0)
    np.testing.assert_array_equal(np.isnan(values), undefined)


def test_intervals_are_wider_where_the_threshold_moves():
    rng = np.random.default_rng(5)
    people = np.repeat(np.arange(60), 20)
    mated = rng.normal(0.6, 0.2, 1200)
    others = rng.integers(60, size=(2, 3000))
    similarity = rng.normal(0, 0.15, 3000) + 0.2 * rng.normal(size=60)[others[0]]  # some people resemble everybody
    rule = FixedThreshold(
        [ScoredPairs(mated, similarity, mated + rng.normal(0, 0.3, 1200), np.zeros(3000))], Target(0.01)
    )
    held, drawn = (
        bootstrap(rule, IdentityResampling(people, 300, 0, non_mated), [0.3], GRID).fnmr[0, :, 0].std()
        for non_mated in (None, others)
    )
    assert drawn > 1.5 * held
