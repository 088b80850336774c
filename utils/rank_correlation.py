"""Spearman's rank correlation, the one used everywhere: training, evaluation and benchmarks."""

import numpy as np
from scipy.stats import rankdata


def spearman(a: np.ndarray, b: np.ndarray) -> float:
    """Return the correlation of the ranks of two vectors (N,); ties share their mean rank.

    NaN where a side is constant or empty.
    """
    ranks = rankdata(a), rankdata(b)
    if not len(a) or any(np.ptp(rank) == 0 for rank in ranks):
        return float("nan")
    return float(np.corrcoef(*ranks)[0, 1])
