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


class WeightedCurves(Protocol):
    """Anything that turns (R, M) pair weights into (R, G) discard fractions and errors."""

    stepwise: bool

    def curves(self, weights_RM: np.ndarray, limit: float = 1.0) -> tuple[np.ndarray, np.ndarray]:
        """Return discard fractions and FNMR under each weighting, at least up to `limit`."""


@dataclass(frozen=True)
class IdentityResampling:
    """Draw identities with replacement; a mated pair weighs as often as its identity was drawn.

    identities: (M,) any integers, one per mated pair. The draws depend on the seed alone, so that every method
    and every condition on these pairs sees the same replicates.
    """

    identities: np.ndarray
    replicates: int
    seed: int

    def weights(self) -> Iterator[np.ndarray]:
        """Yield (r, M) int32 weights until all replicates are done."""
        _, person = np.unique(self.identities, return_inverse=True)
        count = int(person.max()) + 1
        rng = np.random.default_rng(self.seed)
        chunk = max(1, _CELLS // max(len(person), count))
        for start in range(0, self.replicates, chunk):
            size = min(chunk, self.replicates - start)
            drawn = rng.integers(count, size=(size, count)) + np.arange(size)[:, None] * count
            multiplicity = np.bincount(drawn.ravel(), minlength=size * count).reshape(size, count)
            yield multiplicity.astype(np.int32)[:, person]


@dataclass(frozen=True)
class Replicates:
    """Hold what each replicate gave for several methods.

    pauc: limit -> (methods, R) normalised areas, NaN where a replicate has no error to discard.
    fnmr: (methods, R, grid) FNMR at the grid's discard fractions.
    """

    pauc: dict[float, np.ndarray]
    fnmr: np.ndarray


def bootstrap(
    methods: Sequence[WeightedCurves], resampling: IdentityResampling, limits: Sequence[float], grid: np.ndarray
) -> Replicates:
    """Recompute every method's curve under the same resampled identities.

    grid: discard fractions at which the curves are kept, for a band around a plot.
    """
    areas = {limit: [[] for _ in methods] for limit in limits}
    heights: list[list[np.ndarray]] = [[] for _ in methods]
    reach = max([*limits, *grid])
    for weights in resampling.weights():
        for row, method in enumerate(methods):
            discard, fnmr = method.curves(weights, reach)
            curves = [Curve(d, f, method.stepwise) for d, f in zip(discard, fnmr, strict=True)]
            heights[row].append(np.stack([curve.at(grid) for curve in curves]))
            for limit in limits:
                if method.stepwise:
                    values = normalise(step_areas(discard, fnmr, limit), fnmr[:, 0], limit)
                else:
                    values = np.array([curve.pauc(limit).normalised for curve in curves])
                areas[limit][row].append(values)
    return Replicates(
        {limit: np.stack([np.concatenate(parts) for parts in rows]) for limit, rows in areas.items()},
        np.stack([np.concatenate(parts) for parts in heights]),
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
