"""How alike the methods rank the images of a data set."""

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import combinations

import numpy as np

from utils.rank_correlation import spearman


@dataclass(frozen=True)
class Correlation:
    """Hold how far two methods rank the images of a data set alike."""

    dataset: str
    method_a: str
    method_b: str
    spearman: float
    images: int
    """Images that both methods score."""


def correlations(dataset: str, quality: Mapping[str, np.ndarray]) -> list[Correlation]:
    """Compare every two methods, each with its scores (N,), on the images where neither is NaN."""
    found = []
    for a, b in combinations(quality, 2):
        both = np.isfinite(quality[a]) & np.isfinite(quality[b])
        found.append(Correlation(dataset, a, b, spearman(quality[a][both], quality[b][both]), int(both.sum())))
    return found
