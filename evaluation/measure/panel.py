"""All figures of one data set, recognition model and crop condition: curves, areas and their intervals."""

import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from evaluation.measure.accuracy import verification_accuracy
from evaluation.measure.bootstrap import LEVELS, Comparison, IdentityResampling, bootstrap, compare, interval
from evaluation.measure.edc import PAUC, Curve, RankedPairs, fixed_threshold
from evaluation.measure.pooled import PooledSteps, ScoredPairs
from evaluation.pairs.sets import PairSet
from utils.config.evaluate import EvaluationSection

GRID_STEP = 0.005
"""Distance of the points at which the band of a curve is known."""


@dataclass(frozen=True)
class Condition:
    """Say which crops were seen. p: None for another detector; seed: None where there is none, or all are merged."""

    alignment: str = "aligned"
    p: float | None = 0.0
    seed: int | None = None


@dataclass(frozen=True)
class MethodResult:
    """Hold one method's curve and areas. replicates: limit -> (R,), R = 0 without bootstrap. band: (2, grid)."""

    curve: Curve
    pauc: dict[float, PAUC]
    replicates: dict[float, np.ndarray]
    band: np.ndarray | None = None

    def bounds(self, limit: float) -> tuple[float, float]:
        """Return the 95 % interval of the normalised area, NaN without replicates."""
        return interval(self.replicates[limit])[:2]


@dataclass(frozen=True)
class Panel:
    """Hold all methods on the same pairs, recognition model and condition."""

    dataset: str
    recognition: str
    condition: Condition
    mated: int
    non_mated: int
    threshold: float
    fnmr0: float
    accuracy: float
    """Verification accuracy on these pairs, thresholds by cross-validation over folds."""
    results: dict[str, MethodResult]


@dataclass(frozen=True)
class Measure:
    """Say how curves and intervals are computed."""

    section: EvaluationSection
    seed: int

    @property
    def grid(self) -> np.ndarray:
        """Return the discard fractions of a band."""
        return np.arange(0, max(self.section.discard_limits) + GRID_STEP / 2, GRID_STEP)

    def panel(self, place: tuple[str, str, Condition], pairs: PairSet, scores: "PairScores") -> Panel:
        """Evaluate every method of `scores`; `place` is (data set, recognition model, condition)."""
        similarity, mated = scores.similarity, pairs.mated
        threshold, methods = self._methods(similarity, mated, scores.quality)
        results = [self._point(method.curve()) for method in methods]
        if self.section.bootstrap and methods:
            seed = zlib.crc32(f"{self.seed} {place[0]}".encode())  # draws of two data sets are independent
            resampling = IdentityResampling(pairs.mated_identities(), self.section.bootstrap, seed)
            drawn = bootstrap(methods, resampling, self.section.discard_limits, self.grid)
            for row, result in enumerate(results):
                replicates = {limit: values[row] for limit, values in drawn.pauc.items()}
                results[row] = replace(
                    result, replicates=replicates, band=np.percentile(drawn.fnmr[row], LEVELS, axis=0)
                )
        return Panel(
            *place,
            mated=int(mated.sum()),
            non_mated=int((~mated).sum()),
            threshold=threshold,
            fnmr0=float(np.mean(similarity[mated] < threshold)),
            accuracy=verification_accuracy(similarity, mated, pairs.fold),
            results=dict(zip(scores.quality, results, strict=True)),
        )

    def _methods(self, similarity: np.ndarray, mated: np.ndarray, quality: Mapping[str, np.ndarray]):
        """Return the threshold without discard, and each method's pairs in its ranking."""
        fmr = self.section.fmr
        threshold = fixed_threshold(similarity[~mated], fmr)
        if self.section.rule == "fixed_threshold":
            return threshold, [RankedPairs(similarity[mated], q[mated], threshold) for q in quality.values()]
        parts = [ScoredPairs(similarity[mated], similarity[~mated], q[mated], q[~mated]) for q in quality.values()]
        return threshold, [PooledSteps(part, fmr, max(self.section.discard_limits)) for part in parts]

    def _point(self, curve: Curve) -> MethodResult:
        limits = self.section.discard_limits
        return MethodResult(curve, {limit: curve.pauc(limit) for limit in limits}, dict.fromkeys(limits, np.empty(0)))


@dataclass(frozen=True)
class PairScores:
    """Hold the similarity of each pair, (P,), and each method's pair quality, (P,), the min of its two images."""

    similarity: np.ndarray
    quality: dict[str, np.ndarray]

    @classmethod
    def of(cls, similarity: np.ndarray, quality: Mapping[str, np.ndarray], pairs: PairSet) -> "PairScores":
        """Build from one score per image, (N,) over `pairs.names`."""
        return cls(similarity, {name: np.minimum(q[pairs.first], q[pairs.second]) for name, q in quality.items()})


def merge_seeds(panels: Sequence[Panel]) -> Panel:
    """Average the panels of several seeds: areas plainly, replicates one by one, so that the interval is the mean's."""
    first = panels[0]
    results = {}
    for method, result in first.results.items():
        same = [panel.results[method] for panel in panels]
        results[method] = replace(
            result,
            pauc={
                limit: PAUC(*(float(np.mean([one.pauc[limit][i] for one in same])) for i in range(2)))
                for limit in result.pauc
            },
            replicates={limit: np.mean([one.replicates[limit] for one in same], axis=0) for limit in result.replicates},
        )
    return replace(
        first,
        condition=replace(first.condition, seed=None),
        threshold=float(np.mean([panel.threshold for panel in panels])),
        fnmr0=float(np.mean([panel.fnmr0 for panel in panels])),
        accuracy=float(np.mean([panel.accuracy for panel in panels])),
        results=results,
    )


def comparison(panel: Panel, a: str, b: str, limit: float) -> Comparison:
    """Compare methods a and b on this panel's pairs."""
    one, two = panel.results[a], panel.results[b]
    values = one.pauc[limit].normalised, two.pauc[limit].normalised
    return compare(*values, one.replicates[limit], two.replicates[limit])
