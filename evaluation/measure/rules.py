"""The rules by which a threshold is set, each for all methods on the same pairs."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from evaluation.measure.bootstrap import Draw
from evaluation.measure.edc import RankedPairs
from evaluation.measure.pooled import POOLED_RULES, PooledSteps, ScoredPairs
from evaluation.measure.thresholds import CountedScores, fixed_threshold, floor_threshold
from utils.present import present

FIXED = "fixed_threshold"


class Target(NamedTuple):
    """Say what sets the threshold: a false match rate on these pairs, or what was found or decided elsewhere."""

    fmr: float | None
    """None: the threshold was decided, not found."""
    threshold: float | None = None
    """Threshold of elsewhere; None: that of `fmr` on these pairs."""


class FixedThreshold:
    """The threshold is set once, on all non-mated pairs; mated pairs leave, an error is below it."""

    stepwise = True

    def __init__(self, pairs: Sequence[ScoredPairs], target: Target):
        """Take one entry of `pairs` per method: the same similarities, each with its qualities."""
        mated, non_mated = pairs[0][:2]
        self.target = target
        self.threshold = target.threshold
        if self.threshold is None:
            self.threshold = fixed_threshold(non_mated, present(target.fmr))
        self.errors = int(np.sum(mated < self.threshold))
        self.methods = [RankedPairs(one.mated, one.mated_quality, self.threshold) for one in pairs]
        self._order, self._scores = np.argsort(-non_mated, kind="stable"), CountedScores.of(non_mated)

    def curves(self, draw: Draw, limit: float) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Yield each method's discard fractions and FNMR, (R, G), at least up to `limit`."""
        held = draw.non_mated is None or self.target.threshold is not None
        thresholds_R = None if held else self._thresholds(present(draw.non_mated))
        for method in self.methods:
            yield method.curves(draw.mated, limit, thresholds_R)

    def _thresholds(self, counts_RN: np.ndarray) -> np.ndarray:
        """Return the threshold under each row of counts, (R,); NaN where the target allows not one pair."""
        found = [
            floor_threshold(self._scores.recounted(counts[self._order]), present(self.target.fmr))
            for counts in counts_RN
        ]
        return np.array(found, dtype=np.float64)


class Pooled:
    """Mated and non-mated pairs leave together, and the threshold is set anew at every step (POOLED_RULES)."""

    stepwise = False

    def __init__(self, pairs: Sequence[ScoredPairs], name: str, fmr: float, limit: float):
        """Take one entry of `pairs` per method: the same similarities, each with its qualities."""
        self.methods = [PooledSteps(one, POOLED_RULES[name], fmr, limit) for one in pairs]
        start = self.methods[0].full[0]
        self.threshold, self.errors = start.threshold, int(start.wrong.sum())

    def curves(self, draw: Draw, limit: float) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Yield each method's discard fractions and FNMR, (R, steps)."""
        for method in self.methods:
            yield method.curves(draw.mated, draw.non_mated)


def build_rule(name: str, pairs: Sequence[ScoredPairs], target: Target, limit: float) -> FixedThreshold | Pooled:
    """Prepare the rule of this name for methods on the same pairs; `limit`: the largest discard fraction asked for."""
    return FixedThreshold(pairs, target) if name == FIXED else Pooled(pairs, name, present(target.fmr), limit)
