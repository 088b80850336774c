"""EDC and pAUC against a literal, loop-by-loop oracle written from the definition, and against hand computation."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evaluation.measure.accuracy import balanced_accuracy, verification_accuracy
from evaluation.measure.edc import Curve, RankedPairs, edc
from evaluation.measure.pooled import POOLED_RULES, PooledSteps, ScoredPairs
from evaluation.measure.thresholds import CountedScores, closest_threshold, fixed_threshold, floor_threshold
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


def test_counted_scores_are_repeated_scores():
    scores = CountedScores.of(np.array([0.3, 0.9, 0.3, 0.5])).recounted(np.array([2, 0, 1, 3]))  # .9 .9 .3 .3 .3 .3
    assert (scores.total, scores.from_(0.5), scores.above(0.5), scores.above(0.9)) == (6, 2, 2, 0)
    assert [scores.nth(number) for number in (0, 1, 2, 3, 6, 7)] == [math.inf, 0.9, 0.9, 0.3, 0.3, -math.inf]


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_thresholds_under_counts_equal_those_of_repeated_scores(data):
    """Scores without a count are no candidates, and ties leave together."""

    def drawn():
        n = data.draw(st.integers(1, 25))
        scores = np.array(data.draw(st.lists(st.integers(0, 9), min_size=n, max_size=n)), dtype=float)
        return scores, np.array(data.draw(st.lists(st.integers(0, 3), min_size=n, max_size=n)))

    (mated, m), (non_mated, n) = drawn(), drawn()
    fmr = data.draw(st.sampled_from([0.05, 0.1, 0.3, 0.5, 0.9]))
    counted = [CountedScores.of(s).recounted(c[np.argsort(-s)]) for s, c in ((mated, m), (non_mated, n))]
    mated, non_mated = np.repeat(mated, m).tolist(), np.repeat(non_mated, n).tolist()
    if not non_mated:
        assert math.isnan(floor_threshold(counted[1], fmr)) and math.isnan(closest_threshold(*counted, fmr))
        return
    if math.floor(fmr * len(non_mated) + 1e-9):
        assert floor_threshold(counted[1], fmr) == oracle_threshold(non_mated, fmr)
    else:
        assert math.isnan(floor_threshold(counted[1], fmr))
    assert closest_threshold(*counted, fmr) == oracle_closest(mated, non_mated, fmr)


def oracle_closest(mated: list[float], non_mated: list[float], fmr: float) -> float:
    """Try every score that occurs, from the lowest on; the first of the closest wins."""
    distance = {t: abs(sum(s >= t for s in non_mated) / len(non_mated) - fmr) for t in sorted({*mated, *non_mated})}
    return min(distance, key=distance.get)


def test_the_closest_threshold_by_hand():
    """Target .25 of 10: two or three accepted are equally close, so three, at the lowest score that does it."""
    non_mated = CountedScores.of(np.arange(10.0))
    assert closest_threshold(CountedScores.of(np.array([6.2, 6.9, 7.5])), non_mated, 0.25) == 6.2
    assert closest_threshold(CountedScores.of(np.array([5.5, 7.5])), non_mated, 0.25) == 7.0
    # Target .01: none is closer than one, where a mated score lies above them all, and one where none does.
    assert closest_threshold(CountedScores.of(np.array([9.5, 9.7])), non_mated, 0.01) == 9.5
    assert closest_threshold(CountedScores.of(np.array([8.5])), non_mated, 0.01) == 8.5


def oracle_pooled(pairs: ScoredPairs, rule: str, fmr: float, limit: float) -> tuple[list[float], float]:
    """Drop the worst 0, 5, 10, ... % of all pairs, choose the threshold again, join the points by straight lines."""
    rows = [(q, s, True) for s, q in zip(pairs.mated, pairs.mated_quality, strict=True)]
    rows += [(q, s, False) for s, q in zip(pairs.non_mated, pairs.non_mated_quality, strict=True)]
    rows.sort(key=lambda row: row[0])
    errors, x = [], []
    for percent in range(0, 100, 5):
        kept = rows[percent * len(rows) // 100 :]
        kept = [row for row in rows if row[0] >= kept[0][0]]
        mated, non_mated = ([s for _, s, kind in kept if kind is wanted] for wanted in (True, False))
        if rule == "pooled_floor":
            threshold = oracle_threshold(non_mated, fmr)
            errors.append(sum(s < threshold for s in mated) / len(mated))
        else:
            threshold = oracle_closest(mated, non_mated, fmr)
            errors.append(1 - sum(s > threshold for s in mated) / len(mated))
        x.append(percent / 100)
        if percent / 100 >= limit - 1e-9:
            break
    area = sum((x[i + 1] - x[i]) * (errors[i] + errors[i + 1]) / 2 for i in range(len(x) - 1))
    if x[-1] > limit + 1e-9:
        part = (limit - x[-2]) / (x[-1] - x[-2])
        end = errors[-2] + part * (errors[-1] - errors[-2])
        area += (limit - x[-2]) * (errors[-2] + end) / 2 - (x[-1] - x[-2]) * (errors[-2] + errors[-1]) / 2
    return errors, area


def pooled_curve(pairs: ScoredPairs, rule: str, fmr: float, limit: float) -> Curve:
    discard, fnmr = PooledSteps(pairs, POOLED_RULES[rule], fmr, limit).curves(np.ones((1, len(pairs.mated)), int))
    return Curve(discard[0], fnmr[0], stepwise=False)


@pytest.mark.parametrize("rule", POOLED_RULES)
@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("limit", [0.2, 0.3, 0.33])
@pytest.mark.parametrize("seed", range(4))
def test_pooled_rules_equal_their_oracles(rule, seed, limit, ties):
    rng = np.random.default_rng(seed)
    mated, non_mated = rng.normal(0.5, 0.2, 300), rng.normal(0, 0.2, 350)
    pairs = ScoredPairs(mated, non_mated, rng.normal(size=300) + mated, rng.normal(size=350))
    if ties:
        pairs = ScoredPairs(*(np.round(x * 8) / 8 for x in pairs))
    curve = pooled_curve(pairs, rule, 0.05, limit)
    errors, area = oracle_pooled(pairs, rule, 0.05, limit)
    np.testing.assert_allclose(curve.fnmr, errors, atol=1e-12)
    assert curve.pauc(limit).raw == pytest.approx(area, abs=1e-12)
    assert curve.pauc(limit).normalised == pytest.approx(area / (errors[0] * limit), abs=1e-12)


def test_pooled_rules_recompute_the_threshold():
    """Low-quality non-mated pairs score high: once they are gone the threshold falls and errors vanish."""
    non_mated = np.concatenate([np.linspace(0, 0.3, 80), np.full(20, 0.9)])
    pairs = ScoredPairs(np.full(100, 0.5), non_mated, np.ones(100), np.concatenate([np.ones(80), np.zeros(20)]))
    curve = pooled_curve(pairs, "pooled_floor", 0.05, 0.3)
    assert curve.fnmr[0] == 1.0 and curve.fnmr[-1] == 0.0
    assert edc(pairs.mated, pairs.mated_quality, fixed_threshold(non_mated, 0.05)).fnmr.tolist() == [1.0]


def test_the_rule_of_cr_fiqa_takes_the_closest_threshold_and_the_floor_the_safe_one():
    """A target of .035 of 50 is 1.75 non-mated pairs: the floor lets one through, at that pair's own score.

    CR-FIQA's threshold is the lowest score that lets two through, here that of a mated pair. This pair is refused: in
    its evaluation a match lies strictly above the threshold.
    """
    non_mated = np.arange(50) / 100
    mated = np.array([0.473, 0.476, 0.485, 0.495])
    pairs = ScoredPairs(mated, non_mated, np.ones(4), np.ones(50))
    closest, floor = (PooledSteps(pairs, POOLED_RULES[rule], 0.035, 0.2).full[0] for rule in POOLED_RULES)
    assert (closest.threshold, closest.wrong.tolist()) == (0.473, [True, False, False, False])
    assert (floor.threshold, floor.wrong.tolist()) == (0.49, [True, True, True, False])


def test_a_target_that_the_remaining_pairs_cannot_reach_is_named():
    pairs = ScoredPairs(np.ones(50), np.zeros(50), np.arange(50.0), np.arange(50.0))
    with pytest.raises(DataError, match=r"at a discard of 0\.05 too few non-mated pairs are left for an FMR of 0\.02"):
        PooledSteps(pairs, POOLED_RULES["pooled_floor"], 0.02, 0.2)


def test_verification_accuracy_uses_the_threshold_of_the_other_folds():
    similarity = np.array([0.9, 0.8, 0.1, 0.2, 0.5, 0.55, 0.4, 0.3])
    mated = np.array([1, 1, 0, 0, 1, 1, 0, 0], dtype=bool)
    assert verification_accuracy(similarity, mated, np.zeros(8, dtype=int)) == 1.0
    # The other fold's thresholds: (0.4 + 0.5) / 2 = 0.45 for fold 0, (0.2 + 0.8) / 2 = 0.5 for fold 1.
    assert verification_accuracy(similarity, mated, np.array([0] * 4 + [1] * 4)) == 1.0
    similarity[4] = 0.45
    assert verification_accuracy(similarity, mated, np.array([0] * 4 + [1] * 4)) == pytest.approx((1 + 0.75) / 2)


def test_balanced_accuracy_weighs_both_kinds_alike():
    """Accepting nobody tells 99 of 100 pairs right; balanced it is one half, and the right threshold is seen."""
    similarity = np.concatenate([[0.5], np.linspace(0, 0.6, 99)])
    mated = np.arange(100) == 0
    fold = np.zeros(100, dtype=int)
    assert verification_accuracy(similarity, mated, fold) == pytest.approx(0.99)
    below = np.count_nonzero(similarity[1:] < 0.5)
    assert balanced_accuracy(similarity, mated, fold) == pytest.approx((1 + below / 99) / 2)
    assert balanced_accuracy(np.zeros(100), mated, fold) == 0.5


@pytest.mark.parametrize("seed", range(5))
def test_balanced_accuracy_is_the_plain_one_where_there_are_as_many_of_both(seed):
    rng = np.random.default_rng(seed)
    mated = np.arange(400) % 2 == 0
    similarity, fold = np.round(rng.normal(0.3 * mated, 0.2), 1 + seed % 2), np.arange(400) // 2 % 10
    plain = verification_accuracy(similarity, mated, fold)
    assert balanced_accuracy(similarity, mated, fold) == pytest.approx(plain, abs=1e-15)
