"""The figures for machines: columns and rows of each CSV file, in full precision."""

import csv
from collections.abc import Iterable, Sequence
from itertools import combinations
from pathlib import Path

import numpy as np

from evaluation.measure.correlation import Correlation
from evaluation.measure.nuisance import Nuisance
from evaluation.measure.panel import Condition, Panel, comparison
from evaluation.measure.robustness import Agreement
from utils.config.evaluate import EvaluationSection
from utils.files import atomic_write

CURVE_POINTS = 2000
"""At most this many points of a curve are written to edc.csv; a denser one is thinned evenly in discard."""

_PANEL_COLUMNS = "dataset recognition method alignment p fmr rule".split()
PAUC_COLUMNS = [*_PANEL_COLUMNS, *"discard_limit mated non_mated threshold fnmr0 pauc_raw pauc low high".split()]
EDC_COLUMNS = [*"dataset recognition method alignment p discard fnmr low high".split()]
DIFFERENCE_COLUMNS = "dataset recognition alignment p discard_limit method_a method_b difference low high".split()
DIFFERENCE_COLUMNS += ["probability_a_better"]
ROBUSTNESS_COLUMNS = "dataset recognition method alignment p seed discard_limit pauc spearman mean_abs_change".split()
CORRELATION_COLUMNS = "dataset method_a method_b spearman images".split()
NUISANCE_COLUMNS = "dataset nuisance low high images name median".split()


def write_csv(path: Path, columns: Sequence[str], rows: Iterable[Sequence]) -> None:
    """Write rows in full precision; None becomes an empty cell."""
    with atomic_write(path, "w", errors="surrogateescape") as stream:
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(columns)
        writer.writerows([_exact(value) for value in row] for row in rows)


def pauc_rows(panels: Iterable[Panel], section: EvaluationSection) -> Iterable[list]:
    """Yield the rows of pauc.csv, one per panel, method and limit."""
    for panel in panels:
        for method, result in panel.results.items():
            for limit in section.discard_limits:
                low, high = result.bounds(limit) if section.bootstrap else (None, None)
                place = [panel.dataset, panel.recognition, method, *_condition_cells(panel.condition)]
                counts = [panel.mated, panel.non_mated, panel.threshold, panel.fnmr0]
                yield [*place, section.fmr, section.rule, limit, *counts, *result.pauc[limit], low, high]


def edc_rows(panels: Iterable[Panel], grid: np.ndarray) -> Iterable[list]:
    """Yield the rows of edc.csv up to the last grid point; the band is interpolated between grid points."""
    for panel in panels:
        for method, result in panel.results.items():
            curve, band = result.curve, result.band
            place = [panel.dataset, panel.recognition, method, *_condition_cells(panel.condition)]
            for row in thinned(curve.discard, grid[-1]):
                x = curve.discard[row]
                bounds = [None, None] if band is None else [float(np.interp(x, grid, side)) for side in band]
                yield [*place, float(x), float(curve.fnmr[row]), *bounds]


def thinned(discard: np.ndarray, limit: float) -> np.ndarray:
    """Return the rows of at most CURVE_POINTS points up to `limit`, spread evenly over the axis."""
    rows = np.arange(np.searchsorted(discard, limit, side="right"))
    if len(rows) <= CURVE_POINTS:
        return rows
    at = np.linspace(0, limit, CURVE_POINTS)
    return np.unique(np.searchsorted(discard, at, side="right") - 1)


def difference_rows(panels: Iterable[Panel], limits: Sequence[float]) -> Iterable[list]:
    """Yield the rows of differences.csv: every pair of methods on the same pairs."""
    for panel in panels:
        for limit in limits:
            for a, b in combinations(panel.results, 2):
                place = [panel.dataset, panel.recognition, *_condition_cells(panel.condition), limit, a, b]
                yield [*place, *comparison(panel, a, b, limit)]


def robustness_rows(panels: Iterable[Panel], agreements: Sequence[Agreement], limits: Sequence[float]):
    """Yield the rows of robustness.csv: one per panel of one seed, method and limit."""
    known = {(one.dataset, one.method, _crops(one.condition)): one for one in agreements}
    for panel in panels:
        for method, result in panel.results.items():
            one = known.get((panel.dataset, method, _crops(panel.condition)))
            facts = [one.spearman, one.mean_abs_change] if one else [None, None]
            place = [panel.dataset, panel.recognition, method, *_condition_cells(panel.condition), panel.condition.seed]
            for limit in limits:
                yield [*place, limit, result.pauc[limit].normalised, *facts]


def correlation_rows(found: Iterable[Correlation]) -> Iterable[list]:
    """Yield the rows of correlation.csv: every two methods of a data set."""
    for one in found:
        yield [one.dataset, one.method_a, one.method_b, one.spearman, one.images]


def nuisance_rows(found: list[Nuisance]):
    """Yield the rows of nuisance.csv."""
    for one in found:
        for row in one.bins:
            for name, median in row.medians.items():
                yield [one.dataset, row.column, row.low, row.high, row.images, name, median]


def _condition_cells(condition: Condition) -> list:
    return [condition.alignment, condition.p]


def _crops(condition: Condition) -> tuple:
    """Return what tells the crops apart, whoever else saw them."""
    second = condition.alignment.startswith("second")
    return ("second",) if second else (condition.p, condition.seed)


def _exact(value):
    if value is None or isinstance(value, str):
        return "" if value is None else value
    return repr(float(value)) if isinstance(value, float | np.floating) else int(value)
