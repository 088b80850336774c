"""Error versus Discard Characteristic and its partial area (Grother and Tabassi 2007; ISO/IEC 29794-1).

Arrays in, numbers out: what a pair, an image or a file is, other modules know.
"""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from evaluation.measure.thresholds import refuse_nan
from utils.errors import DataError


class PAUC(NamedTuple):
    """Hold the area under a curve from 0 to a discard limit."""

    raw: float
    normalised: float
    """raw / (FNMR(0) * limit): 1 means no gain; NaN where FNMR(0) is 0."""


@dataclass(frozen=True)
class Curve:
    """Hold FNMR against the share of mated pairs discarded.

    discard: (G,) float64, ascending, first value 0. fnmr: (G,) float64.
    stepwise: each error holds until the next point; otherwise points are joined by straight lines.
    """

    discard: np.ndarray
    fnmr: np.ndarray
    stepwise: bool = True

    def at(self, fractions: ArrayLike) -> np.ndarray:
        """Return the FNMR at the given discard fractions."""
        fractions = np.asarray(fractions, dtype=np.float64)
        if not self.stepwise:
            return np.interp(fractions, self.discard, self.fnmr)
        return self.fnmr[np.searchsorted(self.discard, fractions, side="right") - 1]

    def pauc(self, limit: float) -> PAUC:
        """Integrate from 0 to `limit`; the last step is cut there."""
        if self.stepwise:
            raw = float(step_areas(self.discard[None], self.fnmr[None], limit)[0])
        else:
            inside = self.discard < limit - 1e-12
            x = np.append(self.discard[inside], limit)
            y = np.append(self.fnmr[inside], self.at(limit))
            raw = float(((y[1:] + y[:-1]) / 2 * np.diff(x)).sum())
        return PAUC(raw, float(normalise(raw, self.fnmr[0], limit)))


def normalise(raw: ArrayLike, fnmr0: ArrayLike, limit: float) -> np.ndarray:
    """Divide areas by FNMR(0) * limit; NaN where FNMR(0) is 0, since nothing can be gained there."""
    area, start = np.asarray(raw, dtype=np.float64), np.asarray(fnmr0, dtype=np.float64)
    value = np.full(area.shape, np.nan)
    return np.divide(area, start * limit, out=value, where=start > 0)


def step_areas(discard_RG: np.ndarray, fnmr_RG: np.ndarray, limit: float) -> np.ndarray:
    """Integrate R step curves from 0 to `limit`: (R, G) discard fractions and errors -> (R,) areas."""
    start = np.minimum(discard_RG, limit)
    area = np.einsum("rg,rg->r", np.diff(start, axis=1), fnmr_RG[:, :-1])
    return area + (limit - start[:, -1]) * fnmr_RG[:, -1]


class RankedPairs:
    """Sort the mated pairs once by quality, so that a curve under any pair weights is a few cumulative sums.

    mated: (M,) similarities; quality: (M,) min of the two images; threshold: s < threshold is an error.
    """

    stepwise = True

    def __init__(self, mated: np.ndarray, quality: np.ndarray, threshold: float):
        mated, quality = np.asarray(mated), np.asarray(quality, dtype=np.float64)
        if len(mated) == 0:
            raise DataError("there is no mated pair to compute an error from; check the pairs file")
        if len(mated) != len(quality):
            raise ValueError(f"{len(mated)} similarities but {len(quality)} qualities")
        refuse_nan(mated, "the similarity of a mated pair")
        refuse_nan(quality, "the quality of a mated pair")
        self.order = np.argsort(quality, kind="stable")
        ranked = quality[self.order]
        self.ends = np.append(np.flatnonzero(ranked[1:] != ranked[:-1]) + 1, len(ranked))
        """(G,) how many pairs have left after each distinct quality."""
        self.similarity = mated[self.order]
        self.threshold = threshold

    def curves(
        self, weights_RM: np.ndarray, limit: float = 1.0, thresholds_R: np.ndarray | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return discard fractions and FNMR, both (R, G), under R integer weightings of the pairs.

        Point g is the state after the g lowest distinct qualities have left. Points may end once every curve has
        passed `limit`. Where nothing remains, FNMR is 0 at a discard fraction of 1. With `thresholds_R` each weighting
        has a threshold of its own. A row without weight, or whose threshold is NaN, has an FNMR of NaN.
        """
        total = weights_RM.sum(axis=1, dtype=np.int64)[:, None]
        likely = int(np.searchsorted(self.ends, min(1.0, 1.3 * limit + 0.02) * len(self.order)))
        groups = min(likely + 1, len(self.ends))
        left = self._left(weights_RM, groups)
        if groups < len(self.ends) and (left[:, -1:] < limit * total).any():
            groups = len(self.ends)
            left = self._left(weights_RM, groups)
        fnmr = np.zeros((len(total), groups))
        gone = np.zeros((len(total), groups), dtype=np.int64)
        gone[:, 1:] = left[:, : groups - 1]
        np.divide(self._wrong(weights_RM, groups, thresholds_R), total - gone, out=fnmr, where=gone < total)
        undefined = total[:, 0] == 0 if thresholds_R is None else (total[:, 0] == 0) | np.isnan(thresholds_R)
        fnmr[undefined] = np.nan
        return gone / np.maximum(total, 1), fnmr

    def _wrong(self, weights_RM: np.ndarray, groups: int, thresholds_R: np.ndarray | None) -> np.ndarray:
        """Sum the weights of the errors that remain at each of the first `groups` points."""
        limits_R1 = np.full((1, 1), self.threshold) if thresholds_R is None else thresholds_R[:, None]
        error_at = np.flatnonzero(self.similarity < np.nanmax(limits_R1, initial=-np.inf))  # ranks of all errors
        weights = weights_RM[:, self.order[error_at]]
        if thresholds_R is not None:
            weights = weights * (self.similarity[error_at] < limits_R1)
        errors = np.zeros((len(weights), len(error_at) + 1), dtype=np.int64)
        np.cumsum(weights, axis=1, out=errors[:, 1:])
        return errors[:, -1:] - errors[:, np.append(0, np.searchsorted(error_at, self.ends[: groups - 1]))]

    def _left(self, weights_RM: np.ndarray, groups: int) -> np.ndarray:
        """Sum the weights of the pairs that have left after each of the first `groups` qualities."""
        ends = self.ends[:groups]
        left = weights_RM[:, self.order[: ends[-1]]].cumsum(axis=1)
        return left if groups == ends[-1] else left[:, ends - 1]

    def curve(self) -> Curve:
        """Return the curve in which every pair counts once."""
        discard, fnmr = self.curves(np.ones((1, len(self.order)), dtype=np.int32))
        return Curve(discard[0], fnmr[0])


def edc(mated: np.ndarray, quality: np.ndarray, threshold: float) -> Curve:
    """Compute FNMR against discard fraction, mated pairs leaving from the lowest quality, equal ones together.

    The threshold is never recomputed; an error is s < threshold; the last group is never discarded.
    """
    return RankedPairs(mated, quality, threshold).curve()
