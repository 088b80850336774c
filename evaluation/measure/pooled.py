"""EDC over one ranking of mated and non-mated pairs, the threshold set anew at every step."""

from typing import NamedTuple

import numpy as np

from evaluation.measure.edc import Curve, fixed_threshold, refuse_nan
from utils.errors import DataError

POOLED_STEP = 0.05
"""Distance of the points of the `pooled_rethreshold` rule on the discard axis."""


class ScoredPairs(NamedTuple):
    """Hold similarities and qualities of mated and of non-mated pairs, each (n,)."""

    mated: np.ndarray
    non_mated: np.ndarray
    mated_quality: np.ndarray
    non_mated_quality: np.ndarray


class PooledSteps:
    """Prepare the `pooled_rethreshold` rule of CR-FIQA's evaluation.

    Mated and non-mated pairs share one ranking; at every 5 % of it the threshold is recomputed from the
    non-mated pairs that remain. Equal qualities leave together, once the step has passed all of them.
    Under weights the thresholds and cuts of the full sample stay.
    """

    stepwise = False

    def __init__(self, pairs: ScoredPairs, fmr: float, limit: float):
        refuse_nan(pairs.mated_quality, "the quality of a mated pair")
        refuse_nan(pairs.non_mated_quality, "the quality of a non-mated pair")
        ranked = np.sort(np.concatenate([pairs.mated_quality, pairs.non_mated_quality]))
        steps = int(np.ceil(min(limit, 0.95) / POOLED_STEP - 1e-9))
        self.discard = np.round(np.arange(steps + 1) * POOLED_STEP, 10)
        cuts = ranked[np.floor(self.discard * len(ranked) + 1e-9).astype(np.int64)]
        self.kept = pairs.mated_quality[None] >= cuts[:, None]
        if not self.kept.any(axis=1).all():
            raise DataError(f"no mated pair is left at a discard limit of {limit:g}; lower evaluation.discard_limits")
        self.thresholds = [fixed_threshold(pairs.non_mated[pairs.non_mated_quality >= cut], fmr) for cut in cuts]
        self.wrong = self.kept & (pairs.mated[None] < np.array(self.thresholds)[:, None])

    def curves(self, weights_RM: np.ndarray, limit: float = 1.0) -> tuple[np.ndarray, np.ndarray]:
        """Return discard fractions and FNMR, both (R, steps), under R weightings of the mated pairs."""
        weights = weights_RM.astype(np.float64)
        remaining = weights @ self.kept.T.astype(np.float64)
        fnmr = np.zeros(remaining.shape)
        np.divide(weights @ self.wrong.T.astype(np.float64), remaining, out=fnmr, where=remaining > 0)
        return np.broadcast_to(self.discard, fnmr.shape), fnmr

    def curve(self) -> Curve:
        """Return the curve in which every pair counts once."""
        discard, fnmr = self.curves(np.ones((1, self.kept.shape[1])))
        return Curve(discard[0].copy(), fnmr[0], stepwise=False)
