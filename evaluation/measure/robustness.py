"""What misaligned crops do to the scores."""

from dataclasses import dataclass

import numpy as np

from evaluation.measure.panel import Condition
from utils.rank_correlation import spearman


@dataclass(frozen=True)
class Outside:
    """Hold how far the crops of one view reach beyond their images: shares of a crop's pixels, from geometry."""

    dataset: str
    condition: Condition
    border: str
    """What they show there."""
    mean: float
    most: float
    """Largest share of any crop."""


@dataclass(frozen=True)
class Agreement:
    """Hold how far scores of perturbed crops follow those of aligned ones."""

    dataset: str
    method: str
    condition: Condition
    spearman: float
    mean_abs_change: float
    """In units of the score."""


def agreement(aligned: np.ndarray, perturbed: np.ndarray) -> tuple[float, float]:
    """Return Spearman's rank correlation and the mean absolute change."""
    return spearman(aligned, perturbed), float(np.mean(np.abs(perturbed - aligned)))
