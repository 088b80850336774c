"""All figures of one data set, recognition model, crop condition and false match rate."""

import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from evaluation.measure.accuracy import balanced_accuracy
from evaluation.measure.bootstrap import LEVELS, Draw, IdentityResampling, bootstrap, interval
from evaluation.measure.edc import PAUC, Curve
from evaluation.measure.pooled import ScoredPairs
from evaluation.measure.rules import Target, build_rule
from evaluation.pairs.sets import PairSet
from utils.config.evaluate import EvaluationSection
from utils.present import present

GRID_STEP = 0.005
"""Distance of the points at which the band of a curve is known."""


@dataclass(frozen=True)
class Condition:
    """Say which crops were seen. p: None for another detector or its box; seed: None without one, or all merged."""

    alignment: str = "aligned"
    p: float | None = 0.0
    seed: int | None = None


@dataclass(frozen=True)
class MethodResult:
    """Hold one method's curve and areas. replicates: limit -> (R,), R = 0 without bootstrap."""

    curve: Curve
    pauc: dict[float, PAUC]
    replicates: dict[float, np.ndarray]
    heights: np.ndarray | None = None
    """(R, grid) FNMR of each replicate, until seeds are merged."""
    band: np.ndarray | None = None
    """(2, grid) 95 % interval of the FNMR."""

    def bounds(self, limit: float) -> tuple[float, float]:
        """Return the 95 % interval of the normalised area, NaN without replicates."""
        return interval(self.replicates[limit])[:2]


@dataclass(frozen=True)
class Place:
    """Say which data set, recognition model and crops figures belong to."""

    dataset: str
    recognition: str
    condition: Condition = Condition()


@dataclass(frozen=True)
class Panel:
    """Hold all methods on the same pairs, recognition model, condition and false match rate."""

    place: Place
    fmr: float | None
    """Target that set the threshold, here or on another data set; None: the threshold was decided."""
    mated: int
    non_mated: int
    threshold: float
    errors: float
    """Mated pairs refused without discard; a mean where seeds are merged."""
    accuracy: float
    """Balanced verification accuracy on these pairs, thresholds by cross-validation over folds."""
    results: dict[str, MethodResult]
    given_threshold: bool = False
    """The threshold comes from elsewhere, and stays in every replicate."""
    aligned: "Panel | None" = None
    """The same methods on aligned crops of the same pairs, for a misaligned condition."""

    @property
    def dataset(self) -> str:
        """Return the data set's name."""
        return self.place.dataset

    @property
    def recognition(self) -> str:
        """Return the recognition model's name."""
        return self.place.recognition

    @property
    def condition(self) -> Condition:
        """Return which crops were seen."""
        return self.place.condition

    @property
    def fnmr0(self) -> float:
        """Return the FNMR without discard."""
        return self.errors / self.mated


@dataclass(frozen=True)
class PairScores:
    """Hold the similarity of each pair, (P,), and each method's pair quality, (P,), the min of its two images."""

    similarity: np.ndarray
    quality: dict[str, np.ndarray]

    @classmethod
    def of(cls, similarity: np.ndarray, quality: Mapping[str, np.ndarray], pairs: PairSet) -> "PairScores":
        """Build from one score per image, (N,) over `pairs.names`."""
        return cls(similarity, {name: np.minimum(q[pairs.first], q[pairs.second]) for name, q in quality.items()})


@dataclass(frozen=True)
class Measure:
    """Say how curves and intervals are computed."""

    section: EvaluationSection
    seed: int

    @property
    def limit(self) -> float:
        """Return the largest discard limit."""
        return max(self.section.discard_limits)

    @property
    def grid(self) -> np.ndarray:
        """Return the discard fractions of a band."""
        return np.arange(0, self.limit + GRID_STEP / 2, GRID_STEP)

    def panels(
        self, place: Place, pairs: PairSet, scores: PairScores, targets: Sequence[Target] | None = None
    ) -> list[Panel]:
        """Evaluate every method of `scores` at each target; without any, at each false match rate."""
        accuracy = balanced_accuracy(scores.similarity, pairs.mated, pairs.fold)
        targets = targets or [Target(fmr) for fmr in self.section.fmr]
        return [replace(self._panel(place, pairs, scores, target), accuracy=accuracy) for target in targets]

    def _panel(self, place: Place, pairs: PairSet, scores: PairScores, target: Target) -> Panel:
        similarity, mated = scores.similarity, pairs.mated
        parts = similarity[mated], similarity[~mated]
        methods = [ScoredPairs(*parts, q[mated], q[~mated]) for q in scores.quality.values()]
        rule = build_rule(self.section.rule, methods, target, self.limit)
        once = Draw(np.ones((1, int(mated.sum())), dtype=np.int32))
        results = [self._point(Curve(d[0].copy(), f[0], rule.stepwise)) for d, f in rule.curves(once, 1.0)]
        if self.section.bootstrap:
            drawn = bootstrap(rule, self._resampling(place, pairs), self.section.discard_limits, self.grid)
            results = [
                replace(
                    result, replicates={limit: rows[i] for limit, rows in drawn.pauc.items()}, heights=drawn.fnmr[i]
                )
                for i, result in enumerate(results)
            ]
        counts = {"mated": int(mated.sum()), "non_mated": int((~mated).sum())}
        figures = {"threshold": rule.threshold, "errors": rule.errors, "accuracy": float("nan")}
        return Panel(
            place,
            target.fmr,
            **counts,
            **figures,
            results=dict(zip(scores.quality, results, strict=True)),
            given_threshold=target.threshold is not None,
        )

    def _resampling(self, place: Place, pairs: PairSet) -> IdentityResampling:
        """Return the draws of a data set: independent of those of another, the same for every model and condition."""
        non_mated = None
        if self.section.bootstrap_threshold:
            person = pairs.image_identities()
            non_mated = np.stack([person[pairs.first[~pairs.mated]], person[pairs.second[~pairs.mated]]])
        seed = zlib.crc32(f"{self.seed} {place.dataset}".encode())
        return IdentityResampling(pairs.mated_identities(), self.section.bootstrap, seed, non_mated)

    def _point(self, curve: Curve) -> MethodResult:
        limits = self.section.discard_limits
        return MethodResult(curve, {limit: curve.pauc(limit) for limit in limits}, dict.fromkeys(limits, np.empty(0)))


def merge_seeds(panels: Sequence[Panel]) -> Panel:
    """Average the panels of several seeds: curves and areas plainly, replicates one by one, for the mean's interval."""
    first = panels[0]
    return replace(
        first,
        place=replace(first.place, condition=replace(first.condition, seed=None)),
        threshold=float(np.mean([panel.threshold for panel in panels])),
        errors=float(np.mean([panel.errors for panel in panels])),
        accuracy=float(np.mean([panel.accuracy for panel in panels])),
        results={method: _merge([panel.results[method] for panel in panels]) for method in first.results},
        aligned=merge_seeds([present(panel.aligned) for panel in panels]) if first.aligned is not None else None,
    )


def _merge(results: Sequence[MethodResult]) -> MethodResult:
    first = results[0]
    heights = None if first.heights is None else np.mean([present(one.heights) for one in results], axis=0)
    return MethodResult(
        curve=mean_curve([one.curve for one in results]),
        pauc={
            limit: PAUC(*(float(np.mean([one.pauc[limit][i] for one in results])) for i in range(2)))
            for limit in first.pauc
        },
        replicates={limit: np.mean([one.replicates[limit] for one in results], axis=0) for limit in first.replicates},
        band=first.band if heights is None else np.nanpercentile(heights, LEVELS, axis=0),
    )


def mean_curve(curves: Sequence[Curve]) -> Curve:
    """Return the mean FNMR at every discard fraction at which one of the curves has a point."""
    if len(curves) == 1:
        return curves[0]
    discard = np.unique(np.concatenate([curve.discard for curve in curves]))
    return Curve(discard, np.mean([curve.at(discard) for curve in curves], axis=0), curves[0].stepwise)


def without_heights(panel: Panel) -> Panel:
    """Return the panel without its replicates' curves, which are large."""
    return replace(panel, results={name: replace(one, heights=None) for name, one in panel.results.items()})
