"""How alike the methods rank the images of a data set."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np

from evaluation.report.tables import Table, figure
from utils.rank_correlation import spearman

CORRELATION_COLUMNS = "dataset method_a method_b spearman images".split()


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


def correlation_rows(found: Iterable[Correlation]) -> Iterable[list]:
    """Yield the rows of correlation.csv: every two methods of a data set."""
    for one in found:
        yield [one.dataset, one.method_a, one.method_b, one.spearman, one.images]


def correlation_tables(found: Sequence[Correlation]) -> list[Table]:
    """Lay out how alike the methods rank the images: one symmetric matrix per data set."""
    made = []
    for dataset in dict.fromkeys(one.dataset for one in found):
        own = {(one.method_a, one.method_b): one for one in found if one.dataset == dataset}
        methods = list(dict.fromkeys(method for pair in own for method in pair))
        rows = []
        for a in methods:
            pairs = [own.get((a, b)) or own.get((b, a)) for b in methods]
            rows.append([a, *("" if one is None else figure(one.spearman) for one in pairs)])
        counts = sorted({one.images for one in own.values()})
        images = f"{counts[0]:,}" + (f" to {counts[-1]:,}" if len(counts) > 1 else "")
        note = f"Spearman's rank correlation over the images that both methods score: {images}."
        made.append(Table(f"{dataset}: how alike the methods rank", ["method", *methods], rows, note))
    return made
