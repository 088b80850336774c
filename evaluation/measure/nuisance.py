"""What lowers a score: quality and mated similarity against the nuisance that is known of each image.

The metadata file is a CSV with `path` and one column per nuisance, such as prepare.py writes beside rendered faces.
With a column `kind`, a nuisance is judged on the images that were made to vary it (kind = its column) and on the
clean ones, so that other nuisances do not blur the figure; without it, on all images.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from evaluation.pairs.sets import PairSet
from utils.rank_correlation import spearman

BINS = 3
"""Bins of equal size along each nuisance, beside the clean images where kinds are known."""
CLEAN = "clean"
_FEWEST = 5
"""Bins with fewer images or pairs have no median."""


@dataclass(frozen=True)
class Metadata:
    """Hold what is known of the images: numbers (N,) by column, and the kind of each, joined to the pairs' names."""

    columns: dict[str, np.ndarray]
    kind: np.ndarray | None

    def selection(self, column: str) -> np.ndarray:
        """Return which images (N,) bool a nuisance is judged on."""
        known = np.isfinite(self.columns[column])
        return known if self.kind is None else known & np.isin(self.kind, [CLEAN, column])

    def severity(self, column: str) -> np.ndarray:
        """Return the size of a nuisance (N,): angles and other signed columns by their absolute value."""
        return np.abs(self.columns[column])


@dataclass(frozen=True)
class BinRow:
    """Hold one bin of a nuisance: its range, and medians by name (NaN where too few)."""

    column: str
    low: float
    high: float
    images: int
    medians: dict[str, float]


@dataclass(frozen=True)
class Nuisance:
    """Hold how scores and similarities of one data set follow each nuisance."""

    dataset: str
    spearman: dict[str, dict[str, float]]
    """column -> method -> rank correlation of its scores with the severity; below 0: falls with it."""
    bins: list[BinRow]


def judge(
    dataset: str, metadata: Metadata, pairs: PairSet, quality: Mapping[str, np.ndarray], similarity: Mapping
) -> Nuisance:
    """Correlate scores (N,) by method with each nuisance, and take medians over bins.

    `similarity`: (P,) by recognition model; a mated pair counts for the nuisance of one image when the other is clean.
    """
    used = np.zeros(len(pairs.names), bool)
    used[pairs.used()] = True
    correlation, bins = {}, []
    for column in metadata.columns:
        chosen = np.flatnonzero(metadata.selection(column) & used)
        severity = metadata.severity(column)
        if len(chosen) < 2 * _FEWEST or np.ptp(severity[chosen]) == 0:
            continue
        correlation[column] = {}
        for name, values in quality.items():
            scored = chosen[~np.isnan(values[chosen])]
            correlation[column][name] = spearman(values[scored], severity[scored])
        varied, partner = _one_sided(metadata, pairs, column)
        for low, high, here, there in _bins(metadata, column, chosen, varied):
            medians = {name: _median(values[here]) for name, values in quality.items()}
            medians |= {f"similarity, {name}": _median(values[partner[there]]) for name, values in similarity.items()}
            bins.append(BinRow(column, low, high, len(here), medians))
    return Nuisance(dataset, correlation, bins)


def _bins(metadata: Metadata, column: str, chosen: np.ndarray, varied: np.ndarray) -> Iterator[tuple]:
    """Yield (low, high, images, places in `varied`) of the clean images and of BINS equal parts of the others."""
    severity = metadata.severity(column)
    clean = np.zeros(len(severity), bool) if metadata.kind is None else metadata.kind == CLEAN
    if clean[chosen].any():
        here = chosen[clean[chosen]]
        yield float(severity[here].min()), float(severity[here].max()), here, clean[varied]
    rest = chosen[~clean[chosen]]
    edges = np.unique(np.quantile(severity[rest], np.linspace(0, 1, BINS + 1))) if len(rest) else []
    for low, high in pairwise(edges):
        last = high == edges[-1]
        there = ~clean[varied] & _within(severity[varied], low, high, last)
        yield float(low), float(high), rest[_within(severity[rest], low, high, last)], there


def _one_sided(metadata: Metadata, pairs: PairSet, column: str) -> tuple[np.ndarray, np.ndarray]:
    """Return (image, pair) rows: mated pairs of one judged image with a clean one (any other without kinds)."""
    chosen = metadata.selection(column)
    clean = np.ones(len(chosen), bool) if metadata.kind is None else metadata.kind == CLEAN
    images, rows = [], []
    for image, other in ((pairs.first, pairs.second), (pairs.second, pairs.first)):
        found = np.flatnonzero(pairs.mated & chosen[image] & clean[other])
        images.append(image[found])
        rows.append(found)
    return np.concatenate(images), np.concatenate(rows)


def _within(values: np.ndarray, low: float, high: float, last: bool) -> np.ndarray:
    return (values >= low) & ((values <= high) if last else (values < high))


def _median(values: np.ndarray) -> float:
    known = values[~np.isnan(values)]
    return float(np.median(known)) if len(known) >= _FEWEST else float("nan")
