"""Paired bootstrap over identities: how far pAUC, and the difference of two methods, would move with other people."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import numpy as np

from evaluation.measure.edc import Curve, normalise, step_areas

_CELLS = 4_000_000
"""Weights held at a time: replicates x mated pairs."""
LEVELS = (2.5, 97.5)
"""Percentiles of a 95 % interval."""


class Interval(NamedTuple):
    """Hold a 95 % percentile interval and the number of replicates it rests on."""

    low: float
    high: float
    replicates: int


class Comparison(NamedTuple):
    """Hold pAUC of A minus that of B on the same pairs; negative means that A is better."""

    difference: float
    low: float
    high: float
    probability_better: float
    """Share of replicates in which A is below B; equal ones count half."""


class Draw(NamedTuple):
    """Say how often each pair counts in R replicates, integers.

    mated: (R, M). non_mated: (R, N), or None where the non-mated pairs, and so the thresholds, stay as they are.
    """

    mated: np.ndarray
    non_mated: np.ndarray | None = None


class Rule(Protocol):
    """Anything that turns a draw of the pairs into the curves of several methods."""

    stepwise: bool

    def curves(self, draw: Draw, limit: float) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Yield each method's discard fractions and FNMR under each replicate, (R, G), at least up to `limit`."""
        ...


@dataclass(frozen=True)
class IdentityResampling:
    """Draw identities with replacement; a mated pair counts as often as its identity was drawn.

    mated: (M,) any integers, the identity of each mated pair. non_mated: (2, N), those of each non-mated pair, which
    then counts as often as its two identities were drawn, multiplied; None: non-mated pairs are not drawn. The draws
    depend on the identities and the seed alone, so that every method and every condition on these pairs sees the same
    replicates.
    """

    mated: np.ndarray
    replicates: int
    seed: int
    non_mated: np.ndarray | None = None

    def draws(self) -> Iterator[Draw]:
        """Yield parts of the replicates until all are done."""
        every = self.mated if self.non_mated is None else np.concatenate([self.mated, *self.non_mated])
        _, person = np.unique(every, return_inverse=True)
        mated, others = person[: len(self.mated)], person[len(self.mated) :].reshape(2, -1)
        count = int(person.max()) + 1
        rng = np.random.default_rng(self.seed)
        chunk = max(1, _CELLS // max(len(mated), others.shape[1], count))
        for start in range(0, self.replicates, chunk):
            size = min(chunk, self.replicates - start)
            drawn = rng.integers(count, size=(size, count)) + np.arange(size)[:, None] * count
            times = np.bincount(drawn.ravel(), minlength=size * count).reshape(size, count).astype(np.int32)
            non_mated = None if self.non_mated is None else times[:, others[0]] * times[:, others[1]]
            yield Draw(times[:, mated], non_mated)


@dataclass(frozen=True)
class Replicates:
    """Hold what each replicate gave for several methods.

    pauc: limit -> (methods, R) normalised areas, NaN where a replicate has no error to discard.
    fnmr: (methods, R, grid) FNMR at the grid's discard fractions.
    """

    pauc: dict[float, np.ndarray]
    fnmr: np.ndarray


def bootstrap(rule: Rule, resampling: IdentityResampling, limits: Sequence[float], grid: np.ndarray) -> Replicates:
    """Recompute every method's curve under the same resampled identities.

    grid: discard fractions at which the curves are kept, for a band around a plot.
    """
    areas: dict[float, list[list[np.ndarray]]] = {limit: [] for limit in limits}
    heights: list[list[np.ndarray]] = []
    reach = max([*limits, *grid])
    for draw in resampling.draws():
        found = {limit: [] for limit in limits}
        drawn = []
        for discard, fnmr in rule.curves(draw, reach):
            curves = [Curve(d, f, rule.stepwise) for d, f in zip(discard, fnmr, strict=True)]
            drawn.append(np.stack([curve.at(grid) for curve in curves]))
            for limit in limits:
                if rule.stepwise:
                    values = normalise(step_areas(discard, fnmr, limit), fnmr[:, 0], limit)
                else:
                    values = np.array([curve.pauc(limit).normalised for curve in curves])
                found[limit].append(values)
        heights.append(drawn)
        for limit in limits:
            areas[limit].append(found[limit])
    return Replicates(
        {limit: np.concatenate(parts, axis=1) for limit, parts in areas.items()}, np.concatenate(heights, axis=1)
    )


def interval(values: np.ndarray) -> Interval:
    """Return the 95 % percentile interval of (R,) replicates, undefined ones left out."""
    defined = values[~np.isnan(values)]
    if len(defined) == 0:
        return Interval(float("nan"), float("nan"), 0)
    low, high = np.percentile(defined, LEVELS)
    return Interval(float(low), float(high), len(defined))


def compare(pauc_a: float, pauc_b: float, replicates_a: np.ndarray, replicates_b: np.ndarray) -> Comparison:
    """Compare two methods on the same replicates."""
    difference = replicates_a - replicates_b
    bounds = interval(difference)
    defined = difference[~np.isnan(difference)]
    better = float(np.mean((defined < 0) + 0.5 * (defined == 0))) if len(defined) else float("nan")
    return Comparison(pauc_a - pauc_b, bounds.low, bounds.high, better)
