"""The threshold that a false match rate sets, on scores that may count once, several times or not at all.

A score s is accepted when s >= threshold, so FMR(t) is the share of non-mated scores that are at least t.
"""

from dataclasses import dataclass

import numpy as np

from utils.errors import DataError


@dataclass(frozen=True)
class CountedScores:
    """Hold scores in falling order and how many lie at or before each place.

    falling: (n,) float64, the negated scores, ascending. counted: (n,) int64, running sums of the counts.
    """

    falling: np.ndarray
    counted: np.ndarray

    @classmethod
    def of(cls, scores: np.ndarray) -> "CountedScores":
        """Sort scores that count once each."""
        return cls(np.sort(-np.asarray(scores, dtype=np.float64)), np.arange(1, len(scores) + 1))

    def recounted(self, counts: np.ndarray) -> "CountedScores":
        """Return the same scores under other counts, (n,) integers in falling order of the scores; 0: not there."""
        return CountedScores(self.falling, np.cumsum(counts, dtype=np.int64))

    @property
    def total(self) -> int:
        """Return how many scores there are."""
        return int(self.counted[-1]) if len(self.counted) else 0

    def from_(self, score: float) -> int:
        """Return how many scores are at least `score`."""
        place = int(np.searchsorted(self.falling, -score, side="right"))
        return int(self.counted[place - 1]) if place else 0

    def above(self, score: float) -> int:
        """Return how many scores are larger than `score`."""
        place = int(np.searchsorted(self.falling, -score, side="left"))
        return int(self.counted[place - 1]) if place else 0

    def nth(self, number: int) -> float:
        """Return the number-th largest score, counted from 1: infinity for 0, minus infinity beyond the last."""
        if number == 0:
            return float("inf")
        return -float(self.falling[np.searchsorted(self.counted, number)]) if number <= self.total else -float("inf")


def fixed_threshold(non_mated: np.ndarray, fmr: float) -> float:
    """Return the smallest non-mated score t with FMR(t) <= fmr: the floor(fmr * n)-th largest one.

    Ties move t up to the next larger score, or just above the largest.
    Raises DataError when n is too small for the target.
    """
    refuse_nan(non_mated, "the similarity of a non-mated pair")
    threshold = floor_threshold(CountedScores.of(non_mated), fmr)
    if np.isnan(threshold):
        raise DataError(
            f"an FMR of {fmr:g} needs at least {int(np.ceil(1 / fmr - 1e-9))} non-mated pairs, there are "
            f"{len(non_mated)}; add pairs or raise evaluation.fmr"
        )
    return threshold


def floor_threshold(non_mated: CountedScores, fmr: float) -> float:
    """Return the smallest non-mated score t with FMR(t) <= fmr; NaN where the target allows not one score."""
    allowed = int(np.floor(fmr * non_mated.total + 1e-9))
    if allowed == 0:
        return float("nan")
    refused = non_mated.nth(allowed + 1)
    accepted = non_mated.above(refused)
    return non_mated.nth(accepted) if accepted else float(np.nextafter(refused, np.inf))


def closest_threshold(mated: CountedScores, non_mated: CountedScores, fmr: float) -> float:
    """Return, among the scores of both kinds, the lowest t whose FMR(t) is as close to fmr as any; NaN without any.

    It may let more non-mated scores through than the target, or none.
    """
    total = non_mated.total
    if total == 0:
        return float("nan")
    crossing = non_mated.nth(int(np.floor(fmr * total)) + 1)
    more, fewer = non_mated.from_(crossing), non_mated.above(crossing)
    above = _lowest_accepting(fewer, mated, non_mated)
    if abs(fewer / total - fmr) < abs(more / total - fmr) and np.isfinite(above):
        return above
    return _lowest_accepting(more, mated, non_mated)


def _lowest_accepting(accepted: int, mated: CountedScores, non_mated: CountedScores) -> float:
    """Return the lowest score of either kind that exactly `accepted` non-mated ones reach; infinity without one."""
    refused = non_mated.nth(accepted + 1)
    return min(non_mated.nth(accepted), mated.nth(mated.above(refused)))


def refuse_nan(values: np.ndarray, what: str) -> None:
    """Raise DataError naming the first value that is NaN."""
    bad = np.flatnonzero(np.isnan(values))
    if len(bad):
        raise DataError(f"{what} is NaN (first: pair {bad[0]} of {len(values)}); every pair needs a number")
