"""The figures for machines: columns and rows of each CSV file, in full precision."""

import csv
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from evaluation.measure.comparisons import method_difference, method_pairs, misalignment_loss
from evaluation.measure.correlation import Correlation
from evaluation.measure.nuisance import Nuisance
from evaluation.measure.panel import Condition, Panel
from evaluation.measure.robustness import Agreement
from utils.config.evaluate import EvaluationSection
from utils.files import atomic_write

CURVE_POINTS = 2000
"""At most this many points of a curve are written to edc.csv; a denser one is thinned evenly in discard."""

_PLACE = "dataset recognition method alignment p fmr".split()
_INTERVAL = "low high bootstrap_threshold".split()
PAUC_COLUMNS = [*_PLACE, *"rule discard_limit mated non_mated threshold fnmr0 errors pauc_raw pauc".split(), *_INTERVAL]
EDC_COLUMNS = [*_PLACE, "discard", "fnmr", *_INTERVAL]
DIFFERENCE_COLUMNS = "dataset recognition alignment p fmr discard_limit errors method_a method_b difference".split()
DIFFERENCE_COLUMNS += [*_INTERVAL, "probability_a_better"]
LOSS_COLUMNS = [*_PLACE, *"discard_limit errors errors_aligned pauc pauc_aligned difference".split(), *_INTERVAL]
LOSS_COLUMNS += ["probability_misaligned_better"]
ROBUSTNESS_COLUMNS = [*_PLACE, *"seed discard_limit errors pauc spearman mean_abs_change".split()]
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
                counts = [panel.mated, panel.non_mated, panel.threshold, panel.fnmr0, panel.errors]
                place = [*_place(panel, method), section.rule, limit, *counts]
                yield [*place, *result.pauc[limit], *_interval(result.bounds(limit), section)]


def edc_rows(panels: Iterable[Panel], grid: np.ndarray, section: EvaluationSection) -> Iterable[list]:
    """Yield the rows of edc.csv up to the last grid point; the band is interpolated between grid points."""
    for panel in panels:
        for method, result in panel.results.items():
            curve, band = result.curve, result.band
            for row in thinned(curve.discard, grid[-1]):
                x = curve.discard[row]
                bounds = None if band is None else [float(np.interp(x, grid, side)) for side in band]
                yield [*_place(panel, method), float(x), float(curve.fnmr[row]), *_interval(bounds, section)]


def thinned(discard: np.ndarray, limit: float) -> np.ndarray:
    """Return the rows of at most CURVE_POINTS points up to `limit`, spread evenly over the axis."""
    rows = np.arange(np.searchsorted(discard, limit, side="right"))
    if len(rows) <= CURVE_POINTS:
        return rows
    at = np.linspace(0, limit, CURVE_POINTS)
    return np.unique(np.searchsorted(discard, at, side="right") - 1)


def difference_rows(panels: Iterable[Panel], section: EvaluationSection) -> Iterable[list]:
    """Yield the rows of differences.csv: every two methods on the same pairs, A minus B."""
    for panel in panels:
        for limit in section.discard_limits:
            for a, b in method_pairs(panel.results):
                found = method_difference(panel, a, b, limit)
                place = [*_place(panel)[:2], *_place(panel)[3:], limit, panel.errors, a, b, found.difference]
                yield [*place, *_interval(found[1:3], section), found.probability_better]


def loss_rows(panels: Iterable[Panel], section: EvaluationSection) -> Iterable[list]:
    """Yield the rows of losses.csv: what each method itself loses on misaligned crops."""
    for panel in panels:
        if panel.aligned is None:
            continue
        for method, result in panel.results.items():
            for limit in section.discard_limits:
                found = misalignment_loss(panel, method, limit)
                before = panel.aligned.results[method].pauc[limit].normalised
                figures = [panel.errors, panel.aligned.errors, result.pauc[limit].normalised, before, found.difference]
                place = [*_place(panel, method), limit, *figures]
                yield [*place, *_interval(found[1:3], section), found.probability_better]


def robustness_rows(panels: Iterable[Panel], agreements: Sequence[Agreement], limits: Sequence[float]):
    """Yield the rows of robustness.csv: one per panel of one seed, method and limit."""
    known = {(one.dataset, one.method, _crops(one.condition)): one for one in agreements}
    for panel in panels:
        for method, result in panel.results.items():
            one = known.get((panel.dataset, method, _crops(panel.condition)))
            facts = [one.spearman, one.mean_abs_change] if one else [None, None]
            place = [*_place(panel, method), panel.condition.seed]
            for limit in limits:
                yield [*place, limit, panel.errors, result.pauc[limit].normalised, *facts]


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


def _place(panel: Panel, method: str | None = None) -> list:
    return [panel.dataset, panel.recognition, method, panel.condition.alignment, panel.condition.p, panel.fmr]


def _interval(bounds: Sequence[float] | None, section: EvaluationSection) -> list:
    """Return low, high and whether the threshold was drawn anew; empty cells without bootstrap."""
    return [*bounds, section.bootstrap_threshold] if section.bootstrap and bounds is not None else [None] * 3


def _crops(condition: Condition) -> tuple:
    """Return what tells the crops apart, whoever else saw them."""
    return (condition.alignment.partition("_")[0],) if condition.p is None else (condition.p, condition.seed)


def _exact(value):
    if value is None or isinstance(value, str):
        return "" if value is None else value
    return repr(float(value)) if isinstance(value, float | np.floating) else int(value)
