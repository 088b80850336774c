"""EDC over one ranking of mated and non-mated pairs, the threshold set anew at every 5 % of it."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from evaluation.measure.thresholds import CountedScores, closest_threshold, floor_threshold, refuse_nan
from utils.errors import DataError

POOLED_STEP = 0.05
"""Distance of the points on the discard axis."""


class ScoredPairs(NamedTuple):
    """Hold similarities and qualities of mated and of non-mated pairs, each (n,)."""

    mated: np.ndarray
    non_mated: np.ndarray
    mated_quality: np.ndarray
    non_mated_quality: np.ndarray


@dataclass(frozen=True)
class PooledRule:
    """Say how the threshold follows from the pairs that remain, and whether a mated score equal to it is an error."""

    threshold: Callable[[CountedScores, CountedScores, float], float]
    """(mated, non-mated, FMR) -> threshold, NaN where there is none."""
    equal_is_error: bool


POOLED_RULES = {
    "pooled_rethreshold": PooledRule(closest_threshold, equal_is_error=True),
    "pooled_floor": PooledRule(lambda mated, non_mated, fmr: floor_threshold(non_mated, fmr), equal_is_error=False),
}
"""pooled_rethreshold: as CR-FIQA's evaluation; pooled_floor: the lowest threshold whose FMR is at most the target."""


class Step(NamedTuple):
    """Hold what remains at one step: the threshold, and which mated pairs, (M,) bool, are there and are errors."""

    threshold: float
    kept: np.ndarray
    wrong: np.ndarray


class PooledSteps:
    """Rank the pairs of one method once, so that its curve under any counts of the pairs is a few cumulative sums.

    Equal qualities leave together, once the step has passed all of them.
    """

    def __init__(self, pairs: ScoredPairs, rule: PooledRule, fmr: float, limit: float):
        refuse_nan(pairs.mated_quality, "the quality of a mated pair")
        refuse_nan(pairs.non_mated_quality, "the quality of a non-mated pair")
        self.rule, self.fmr = rule, fmr
        steps = int(np.ceil(min(limit, 0.95) / POOLED_STEP - 1e-9))
        self.discard = np.round(np.arange(steps + 1) * POOLED_STEP, 10)
        self.orders = [np.argsort(-similarity, kind="stable") for similarity in pairs[:2]]
        self.scores = [CountedScores.of(similarity) for similarity in pairs[:2]]
        self.similarity = pairs.mated
        self.quality = pairs.mated_quality, pairs.non_mated_quality
        pooled = np.concatenate(self.quality)
        self.by_quality = np.argsort(pooled, kind="stable")
        self.ranked = pooled[self.by_quality]
        self.full = list(self.steps(*(np.ones(len(quality), dtype=np.int64) for quality in self.quality)))
        self._require_complete(limit)

    def steps(self, mated_counts: np.ndarray, non_mated_counts: np.ndarray) -> Iterator[Step]:
        """Yield every step with each pair counted so often, (M,) and (N,) integers."""
        counts = mated_counts, non_mated_counts
        counted = np.cumsum(np.concatenate(counts)[self.by_quality], dtype=np.int64)
        gone = np.floor(self.discard * counted[-1] + 1e-9)
        for cut in self.ranked[np.searchsorted(counted, gone, side="right")]:
            left = [count * (quality >= cut) for count, quality in zip(counts, self.quality, strict=True)]
            mated, non_mated = (
                scores.recounted(count[order])
                for scores, count, order in zip(self.scores, left, self.orders, strict=True)
            )
            threshold = self.rule.threshold(mated, non_mated, self.fmr)
            kept = self.quality[0] >= cut
            error = self.similarity <= threshold if self.rule.equal_is_error else self.similarity < threshold
            yield Step(threshold, kept, kept & error)

    def curves(self, mated_RM: np.ndarray, non_mated_RN: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
        """Return discard fractions and FNMR, both (R, steps), under R counts of the pairs.

        Without counts of the non-mated pairs, thresholds and cuts stay those of the full sample. NaN: no threshold, or
        no mated pair is left.
        """
        if non_mated_RN is None:
            kept, wrong = (np.stack(rows).T.astype(np.float64) for rows in zip(*(step[1:] for step in self.full)))
            mated = mated_RM.astype(np.float64)
            left, errors = mated @ kept, mated @ wrong
        else:
            left, errors = np.empty((2, len(mated_RM), len(self.discard)))
            for row, counts in enumerate(zip(mated_RM, non_mated_RN, strict=True)):
                for column, step in enumerate(self.steps(*counts)):
                    left[row, column] = 0 if np.isnan(step.threshold) else counts[0][step.kept].sum()
                    errors[row, column] = counts[0][step.wrong].sum()
        fnmr = np.full(left.shape, np.nan)
        np.divide(errors, left, out=fnmr, where=left > 0)
        return np.broadcast_to(self.discard, fnmr.shape), fnmr

    def _require_complete(self, limit: float) -> None:
        for discard, step in zip(self.discard, self.full, strict=True):
            if not step.kept.any():
                raise DataError(
                    f"no mated pair is left at a discard limit of {limit:g}; lower evaluation.discard_limits"
                )
            if np.isnan(step.threshold):
                raise DataError(
                    f"at a discard of {discard:g} too few non-mated pairs are left for an FMR of {self.fmr:g}; add "
                    "pairs or raise evaluation.fmr"
                )
