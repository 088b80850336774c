"""EDC and pAUC against a literal, loop-by-loop oracle written from the definition, and against hand computation."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evaluation.measure.accuracy import verification_accuracy
from evaluation.measure.edc import Curve, RankedPairs, edc, fixed_threshold
from evaluation.measure.pooled import PooledSteps, ScoredPairs
from utils.errors import DataError


def oracle_threshold(non_mated: list[float], fmr: float) -> float:
    """Walk the observed scores upwards until few enough of them are accepted."""
    for candidate in sorted(non_mated):
        if sum(s >= candidate for s in non_mated) <= math.floor(fmr * len(non_mated) + 1e-9):
            return candidate
    return math.nextafter(max(non_mated), math.inf)


def oracle_edc(mated: list[float], quality: list[float], threshold: float) -> list[tuple[float, float]]:
    """Remove the pairs of one quality value after the other and count again from scratch."""
    points = []
    for cut in sorted(set(quality)):
        kept = [s for s, q in zip(mated, quality, strict=True) if q >= cut]
        points.append((1 - len(kept) / len(mated), sum(s < threshold for s in kept) / len(kept)))
    return points


def oracle_area(points: list[tuple[float, float]], limit: float) -> float:
    area = 0.0
    for i, (start, error) in enumerate(points):
        end = points[i + 1][0] if i + 1 < len(points) else 1.0
        if start < limit:
            area += (min(end, limit) - start) * error
    return area


def random_case(seed: int, ties: bool):
    rng = np.random.default_rng(seed)
    mated, non_mated = rng.normal(0.5, 0.2, rng.integers(5, 200)), rng.normal(0.0, 0.2, rng.integers(20, 400))
    quality = rng.normal(size=len(mated)) + mated
    if ties:
        mated, non_mated, quality = (np.round(x * 8) / 8 for x in (mated, non_mated, quality))
    return mated, non_mated, quality


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("seed", range(40))
def test_equal_to_the_oracle(seed, ties):
    mated, non_mated, quality = random_case(seed, ties)
    threshold = fixed_threshold(non_mated, 0.1)
    assert threshold == oracle_threshold(list(non_mated), 0.1)
    curve = edc(mated, quality, threshold)
    points = oracle_edc(list(mated), list(quality), threshold)
    np.testing.assert_allclose(np.stack([curve.discard, curve.fnmr], 1), points, rtol=0, atol=1e-12)
    for limit in (0.05, 0.2, 0.3, 0.731, 1.0):
        got = curve.pauc(limit)
        assert got.raw == pytest.approx(oracle_area(points, limit), abs=1e-12)
        if points[0][1]:
            assert got.normalised == pytest.approx(oracle_area(points, limit) / (points[0][1] * limit), abs=1e-12)
        else:
            assert math.isnan(got.normalised)


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_weights_equal_repeated_pairs(data):
    n = data.draw(st.integers(1, 30))
    integers = st.lists(st.integers(0, 4), min_size=n, max_size=n)
    quality, mated = (np.array(data.draw(integers), dtype=float) for _ in range(2))
    weights = np.array(data.draw(integers))
    weights[data.draw(st.integers(0, n - 1))] += 1
    limit = data.draw(st.sampled_from([0.1, 0.3, 1.0]))
    discard, fnmr = RankedPairs(mated, quality, 2.0).curves(weights[None].astype(np.int32), limit)
    points = oracle_edc(list(np.repeat(mated, weights)), list(np.repeat(quality, weights)), 2.0)
    got = Curve(discard[0], fnmr[0]).pauc(limit)
    assert got.raw == pytest.approx(oracle_area(points, limit), abs=1e-12)
    assert fnmr[0, 0] == pytest.approx(points[0][1], abs=1e-15)


def test_hand_computed_steps_and_the_cut_last_step():
    curve = edc(np.array([0.1, 0.9, 0.1, 0.9, 0.9]), np.array([1.0, 2.0, 3.0, 3.0, 4.0]), 0.5)
    np.testing.assert_allclose(curve.discard, [0, 0.2, 0.4, 0.8], atol=1e-15)
    np.testing.assert_allclose(curve.fnmr, [2 / 5, 1 / 4, 1 / 3, 0], atol=1e-15)
    assert curve.pauc(0.3).raw == pytest.approx(0.2 * 0.4 + 0.1 * 0.25, abs=1e-15)
    assert curve.pauc(0.3).normalised == pytest.approx((0.08 + 0.025) / (0.4 * 0.3), abs=1e-15)
    np.testing.assert_array_equal(curve.at(np.array([0, 0.19, 0.2, 0.79, 0.8])), curve.fnmr[[0, 0, 1, 2, 3]])


@pytest.mark.parametrize("limit", [0.1, 0.2, 0.3, 0.7])
def test_constant_quality_is_exactly_one(limit):
    rng = np.random.default_rng(1)
    assert edc(rng.normal(size=997), np.full(997, 3.7), 0.1).pauc(limit).normalised == 1.0


def test_perfect_order_reaches_the_best_possible_curve():
    mated = np.linspace(0, 1, 1000, endpoint=False)
    curve = edc(mated, mated, 0.1)
    best = np.clip((0.1 - curve.discard) / (1 - curve.discard), 0, None)
    np.testing.assert_allclose(curve.fnmr, best, atol=1e-12)
    assert curve.fnmr[100] == 0.0 and curve.fnmr[99] > 0


def test_no_error_gives_nan_not_zero():
    result = edc(np.ones(10), np.arange(10.0), 0.5).pauc(0.3)
    assert result.raw == 0.0 and math.isnan(result.normalised)


def test_threshold_is_the_kth_largest_non_mated_score():
    scores = np.arange(3000) / 3000
    assert fixed_threshold(scores, 1e-3) == scores[-3]
    assert fixed_threshold(scores[::-1], 1e-3) == scores[-3]
    assert fixed_threshold(scores[:100], 0.29) == scores[71], "0.29 * 100 is 28.999999999999996, meant are 29"


def test_threshold_moves_up_with_ties():
    assert fixed_threshold(np.array([0.1, 0.2, 0.3, 0.3, 0.3, 0.4, 0.5, 0.5, 0.6, 0.7]), 0.6) == 0.4
    top = fixed_threshold(np.array([0.1] * 8 + [0.9] * 2), 0.1)
    assert 0.9 < top < 0.9 + 1e-15


def test_an_error_is_strictly_below_the_threshold():
    assert edc(np.array([0.5, 0.5, 0.49]), np.array([1.0, 2.0, 3.0]), 0.5).fnmr[0] == pytest.approx(1 / 3)


def test_too_few_non_mated_pairs_name_the_number_needed():
    with pytest.raises(DataError, match="at least 1000 non-mated pairs, there are 999"):
        fixed_threshold(np.zeros(999), 1e-3)


@pytest.mark.parametrize("field", [0, 1])
def test_nan_is_refused(field):
    arrays = [np.ones(4), np.ones(4)]
    arrays[field][2] = np.nan
    with pytest.raises(DataError, match="pair 2 of 4"):
        edc(*arrays, 0.5)


def test_no_mated_pair_is_refused():
    with pytest.raises(DataError, match="no mated pair"):
        edc(np.array([]), np.array([]), 0.5)


def oracle_pooled(pairs: ScoredPairs, fmr: float, limit: float) -> tuple[list[float], float]:
    """Drop the worst 0, 5, 10, ... % of all pairs, choose the threshold again, join the points by straight lines."""
    rows = [(q, s, True) for s, q in zip(pairs.mated, pairs.mated_quality, strict=True)]
    rows += [(q, s, False) for s, q in zip(pairs.non_mated, pairs.non_mated_quality, strict=True)]
    rows.sort(key=lambda row: row[0])
    errors, x = [], []
    for percent in range(0, 100, 5):
        kept = rows[percent * len(rows) // 100 :]
        kept = [row for row in rows if row[0] >= kept[0][0]]
        threshold = oracle_threshold([s for _, s, mated in kept if not mated], fmr)
        mated = [s for _, s, mated in kept if mated]
        errors.append(sum(s < threshold for s in mated) / len(mated))
        x.append(percent / 100)
        if percent / 100 >= limit - 1e-9:
            break
    area = sum((x[i + 1] - x[i]) * (errors[i] + errors[i + 1]) / 2 for i in range(len(x) - 1))
    if x[-1] > limit + 1e-9:
        part = (limit - x[-2]) / (x[-1] - x[-2])
        end = errors[-2] + part * (errors[-1] - errors[-2])
        area += (limit - x[-2]) * (errors[-2] + end) / 2 - (x[-1] - x[-2]) * (errors[-2] + errors[-1]) / 2
    return errors, area


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("limit", [0.2, 0.3, 0.33])
@pytest.mark.parametrize("seed", range(6))
def test_pooled_rule_equals_its_oracle(seed, limit, ties):
    rng = np.random.default_rng(seed)
    mated, non_mated = rng.normal(0.5, 0.2, 300), rng.normal(0, 0.2, 350)
    pairs = ScoredPairs(mated, non_mated, rng.normal(size=300) + mated, rng.normal(size=350))
    if ties:
        pairs = ScoredPairs(*(np.round(x * 8) / 8 for x in pairs))
    curve = PooledSteps(pairs, 0.05, limit).curve()
    errors, area = oracle_pooled(pairs, 0.05, limit)
    np.testing.assert_allclose(curve.fnmr, errors, atol=1e-12)
    assert curve.pauc(limit).raw == pytest.approx(area, abs=1e-12)
    assert curve.pauc(limit).normalised == pytest.approx(area / (errors[0] * limit), abs=1e-12)


def test_pooled_rule_recomputes_the_threshold():
    """Low-quality non-mated pairs score high: once they are gone the threshold falls and errors vanish."""
    non_mated = np.concatenate([np.linspace(0, 0.3, 80), np.full(20, 0.9)])
    pairs = ScoredPairs(np.full(100, 0.5), non_mated, np.ones(100), np.concatenate([np.ones(80), np.zeros(20)]))
    curve = PooledSteps(pairs, 0.05, 0.3).curve()
    assert curve.fnmr[0] == 1.0 and curve.fnmr[-1] == 0.0
    assert edc(pairs.mated, pairs.mated_quality, fixed_threshold(non_mated, 0.05)).fnmr.tolist() == [1.0]


def test_verification_accuracy_uses_the_threshold_of_the_other_folds():
    similarity = np.array([0.9, 0.8, 0.1, 0.2, 0.5, 0.55, 0.4, 0.3])
    mated = np.array([1, 1, 0, 0, 1, 1, 0, 0], dtype=bool)
    assert verification_accuracy(similarity, mated, np.zeros(8, dtype=int)) == 1.0
    # The other fold's thresholds: (0.4 + 0.5) / 2 = 0.45 for fold 0, (0.2 + 0.8) / 2 = 0.5 for fold 1.
    assert verification_accuracy(similarity, mated, np.array([0] * 4 + [1] * 4)) == 1.0
    similarity[4] = 0.45
    assert verification_accuracy(similarity, mated, np.array([0] * 4 + [1] * 4)) == pytest.approx((1 + 0.75) / 2)
