"""What a score means: the threshold for a wanted discard rate, and the percentiles."""

import math
from collections.abc import Sequence

import numpy as np

from evaluation.report.text_table import Table

PERCENTILES = (0, 1, 5, 10, 25, 50, 75, 90, 95, 99, 100)


def threshold_table(title: str, scores: np.ndarray, shares: Sequence[float]) -> Table:
    """Say which score discards at most a wanted share of images: keep what is at least the threshold."""
    rows = []
    ranked = np.sort(scores)
    for share in shares:
        threshold, below = discard_threshold(ranked, share)
        rows.append(
            [f"{100 * share:g} %", f"{threshold:.6g}", f"{below} of {len(ranked)} ({100 * below / len(ranked):.2f} %)"]
        )
    return Table(f"{title}: threshold for a wanted discard rate", ["wanted", "keep scores from", "discarded"], rows)


def discard_threshold(ranked: np.ndarray, share: float) -> tuple[float, int]:
    """Return the lowest score that is kept, and how many of the ascending scores lie below: at most `share` of them.

    `share` is less than 1. Equal scores stay together.
    """
    threshold = ranked[math.floor(share * len(ranked) + 1e-9)]
    return threshold, int(np.searchsorted(ranked, threshold))


def percentile_table(title: str, scores: np.ndarray) -> Table:
    """Tabulate the percentiles of a score file."""
    values = np.percentile(scores, PERCENTILES)
    return Table(
        f"{title}: percentiles of {len(scores)} scores",
        [f"{p} %" for p in PERCENTILES],
        [[f"{value:.6g}" for value in values]],
    )
