"""The figures as files: CSV for machines, tables for Markdown and HTML."""

import csv
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import combinations
from pathlib import Path

import numpy as np

from evaluation.measure.analysis import Agreement, Condition, Panel, comparison
from evaluation.measure.bootstrap import interval
from utils.config.evaluate import EvaluationSection
from utils.errors import DataError
from utils.files import atomic_write

PUBLISHED = Path(__file__).with_name("published.csv")
CURVE_POINTS = 2000
"""At most this many points of a curve are written to edc.csv; a denser one is thinned evenly in discard."""
FEW_ERRORS = 20
"""With fewer mated pairs in error, a table says that it tells little."""
FEW_METHODS = 4
"""Up to this many methods, difference_table shows all pairs of them."""
PERCENTILES = (0, 1, 5, 10, 25, 50, 75, 90, 95, 99, 100)

_PANEL_COLUMNS = "dataset recognition method alignment p fmr rule".split()
PAUC_COLUMNS = [*_PANEL_COLUMNS, *"discard_limit mated non_mated threshold fnmr0 pauc_raw pauc low high".split()]
EDC_COLUMNS = [*"dataset recognition method alignment p discard fnmr low high".split()]
DIFFERENCE_COLUMNS = "dataset recognition alignment p discard_limit method_a method_b difference low high".split()
DIFFERENCE_COLUMNS += ["probability_a_better"]
ROBUSTNESS_COLUMNS = "dataset recognition method alignment p seed discard_limit pauc spearman mean_abs_change".split()


@dataclass(frozen=True)
class Table:
    """Hold a table of texts; `**text**` is bold."""

    title: str
    columns: list[str]
    rows: list[list[str]]
    note: str = ""

    def markdown(self) -> str:
        """Return the table as Markdown."""
        escaped = [[cell.replace("|", "\\|") for cell in row] for row in [self.columns, *self.rows]]
        lines = ["| " + " | ".join(row) + " |" for row in escaped]
        lines.insert(1, "|" + "---|" * len(self.columns))
        parts = [f"### {self.title}", "\n".join(lines), self.note]
        return "\n\n".join(part for part in parts if part) + "\n"


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


def pauc_tables(panels: Sequence[Panel], section: EvaluationSection) -> list[Table]:
    """Lay out pAUC as in papers: per limit, condition and recognition model, methods x data sets with their mean."""
    tables = []
    for limit in section.discard_limits:
        for condition in dict.fromkeys(panel.condition for panel in panels):
            for recognition in dict.fromkeys(panel.recognition for panel in panels):
                chosen = [p for p in panels if p.condition == condition and p.recognition == recognition]
                if chosen:
                    tables.append(_pauc_table(chosen, limit, section))
    return tables


def _pauc_table(panels: Sequence[Panel], limit: float, section: EvaluationSection) -> Table:
    condition, recognition = panels[0].condition, panels[0].recognition
    methods = list(dict.fromkeys(method for panel in panels for method in panel.results))
    with_mean = len(panels) > 1
    values = np.full((len(methods), len(panels) + with_mean), np.nan)
    cells = [["–"] * values.shape[1] for _ in methods]
    duplicate = False
    for row, method in enumerate(methods):
        results = [panel.results.get(method) for panel in panels]
        printed = [_published(panel, method) for panel in panels]
        for column, result in enumerate(results):
            if result is not None:
                values[row, column] = result.pauc[limit].normalised
                cells[row][column] = _cell(values[row, column], result.replicates[limit], printed[column])
        if with_mean and None not in results:
            values[row, -1] = np.mean(values[row, :-1])
            replicates = np.mean([result.replicates[limit] for result in results], axis=0)
            cells[row][-1] = _cell(values[row, -1], replicates, None)
        duplicate |= method in ("SER-FIQ", "SDD-FIQA") and any(printed)
    for column in range(values.shape[1]):
        if np.isfinite(values[:, column]).any():
            best = int(np.nanargmin(values[:, column]))
            head, space, rest = cells[best][column].partition(" ")
            cells[best][column] = f"**{head}**{space}{rest}"
    title = f"{recognition}, {describe(condition)}: pAUC to {limit:g} at FMR {section.fmr:g}"
    columns = ["method", *(panel.dataset for panel in panels), *(["mean"] if with_mean else [])]
    rows = [[method, *row] for method, row in zip(methods, cells, strict=True)]
    return Table(
        title, columns, rows, _note(panels, section, any("published" in c for r in cells for c in r), duplicate)
    )


def _note(panels: Sequence[Panel], section: EvaluationSection, published: bool, duplicate: bool) -> str:
    sentences = ["Normalised pAUC, lower is better, 1 is no gain"]
    if section.bootstrap:
        sentences[0] += f"; in brackets the 95 % interval of {section.bootstrap} bootstrap replicates over identities"
    sentences[0] += f"; rule {section.rule}."
    sentences += [f"FNMR(0) on {panel.dataset}: {panel.fnmr0:.4f} of {panel.mated} mated pairs." for panel in panels]
    errors = {panel.dataset: round(panel.fnmr0 * panel.mated) for panel in panels}
    few = [f"{count} on {dataset}" for dataset, count in errors.items() if 0 < count < FEW_ERRORS]
    if few:
        sentences.append(f"Mated pairs in error: {', '.join(few)}; too few to tell methods apart.")
    if any(panel.fnmr0 == 0 for panel in panels):
        sentences.append("nan: without any error there is nothing to gain.")
    if published:
        sentences.append("(published ...): the figure printed in the AI-KD paper; its protocol is partly unknown.")
    if duplicate:
        sentences.append("The paper's rows of SER-FIQ and SDD-FIQA are identical in every cell: one is a duplicate.")
    return " ".join(sentences)


def set_table(panels: Sequence[Panel]) -> Table:
    """Lay out what each recognition model does before anything is discarded."""
    rows = []
    for panel in panels:
        counts = [f"{panel.mated:,}", f"{panel.non_mated:,}", f"{panel.threshold:.4f}", f"{100 * panel.fnmr0:.2f}"]
        rows.append(
            [panel.dataset, panel.recognition, describe(panel.condition), *counts, f"{100 * panel.accuracy:.2f}"]
        )
    columns = ["data set", "recognition", "crops", "mated", "non-mated", "threshold", "FNMR %", "accuracy %"]
    return Table("Recognition without discarding", columns, rows)


def difference_table(panels: Sequence[Panel], limit: float) -> Table:
    """Lay out the differences among X and what was made of it, and, where there are few methods, every difference."""
    rows = []
    for panel in panels:
        origins = _origins(panel.results)
        for a, b in combinations(panel.results, 2):
            related = origins[a] == origins[b]
            if related or len(panel.results) <= FEW_METHODS:
                one, two = (b, a) if related and b != origins[b] else (a, b)
                found = comparison(panel, one, two, limit)
                bounds = f"[{signed(found.low)}, {signed(found.high)}]" if found.low == found.low else "–"
                better = f"{found.probability_better:.3f}" if found.low == found.low else "–"
                place = [panel.dataset, panel.recognition, describe(panel.condition)]
                rows.append([*place, f"{one} − {two}", signed(found.difference), bounds, better])
    columns = ["data set", "recognition", "crops", "A − B", "pAUC difference", "95 % interval", "P(A better)"]
    note = "Negative: A is better. Both methods are measured on the same pairs and the same replicates."
    return Table(f"Differences of pAUC to {limit:g}", columns, rows, note)


def _origins(methods: Iterable[str]) -> dict[str, str]:
    """Return the X each method was made of: `AI-KD(X)` and `plain(X)` of X, any other of itself."""
    return {name: next((x for x in methods if name.endswith(f"({x})")), name) for name in methods}


def agreement_table(agreements: Sequence[Agreement]) -> Table:
    """Lay out how far scores of misaligned crops follow those of aligned ones: means over seeds."""
    rows = []
    keys = [(one.dataset, one.method, one.condition.alignment, one.condition.p) for one in agreements]
    for key in dict.fromkeys(keys):
        own = [one for one, place in zip(agreements, keys, strict=True) if place == key]
        rho = np.array([one.spearman for one in own])
        spread = f" ({rho.min():.3f} to {rho.max():.3f})" if len(own) > 1 else ""
        crops = "second landmark file" if key[3] is None else f"p = {key[3]:g}"
        change = float(np.mean([one.mean_abs_change for one in own]))
        rows.append([key[0], key[1], crops, f"{rho.mean():.3f}{spread}", f"{change:.4g}"])
    columns = ["data set", "method", "crops", "Spearman (over seeds)", "mean absolute change"]
    return Table("Scores of misaligned crops against those of aligned crops", columns, rows)


def signed(value: float) -> str:
    """Write a difference with its sign."""
    return ("−" if value < 0 else "+") + short(abs(value))


def fnmr_table(panels: Sequence[Panel], limit: float) -> Table:
    """Lay out the FNMR after discarding 0, 10, 20, ... % of the mated pairs, aligned crops."""
    shares = [share for share in np.arange(0, 1, 0.1) if share <= limit + 1e-9]
    rows = []
    for panel in panels:
        for method, result in panel.results.items():
            cells = [f"{100 * value:.2f}" for value in result.curve.at(np.array(shares) + 1e-12)]
            rows.append([panel.dataset, panel.recognition, method, *cells])
    columns = ["data set", "recognition", "method", *(f"{100 * share:.0f} %" for share in shares)]
    return Table("FNMR in % after discarding the worst", columns, rows)


def threshold_table(title: str, scores: np.ndarray, shares: Sequence[float]) -> Table:
    """Say which score discards at most a wanted share of images: keep what is at least the threshold."""
    rows = []
    ranked = np.sort(scores)
    for share in shares:
        threshold = ranked[math.floor(share * len(ranked) + 1e-9)]
        below = int(np.searchsorted(ranked, threshold))
        rows.append(
            [f"{100 * share:g} %", f"{threshold:.6g}", f"{below} of {len(ranked)} ({100 * below / len(ranked):.2f} %)"]
        )
    return Table(f"{title}: threshold for a wanted discard rate", ["wanted", "keep scores from", "discarded"], rows)


def percentile_table(title: str, scores: np.ndarray) -> Table:
    """Tabulate the percentiles of a score file."""
    values = np.percentile(scores, PERCENTILES)
    return Table(
        f"{title}: percentiles of {len(scores)} scores",
        [f"{p} %" for p in PERCENTILES],
        [[f"{value:.6g}" for value in values]],
    )


def describe(condition: Condition) -> str:
    """Name a condition for people."""
    seen = "quality methods only" if condition.alignment.endswith("quality") else "quality and recognition"
    if condition.alignment == "aligned":
        return "aligned"
    if condition.alignment.startswith("second"):
        return f"second landmark file ({seen})"
    return f"misaligned p = {condition.p:g} ({seen})"


@cache
def published_figures() -> dict[tuple[str, str, str, str], str]:
    """Read the paper's printed figures: (table, recognition model, method, data set), lower case -> pAUC."""
    try:
        with open(PUBLISHED, encoding="utf-8", newline="") as stream:
            rows = list(csv.DictReader(stream))
    except OSError as error:
        raise DataError(f"{PUBLISHED}: cannot be read ({error.strerror}); restore the file") from error
    keys = ("table", "fr_model", "method", "dataset")
    return {tuple(row[key].lower() for key in keys): row["pauc"] for row in rows}


def _published(panel: Panel, method: str) -> str | None:
    table = "proper" if panel.condition.alignment == "aligned" else "misaligned"
    return published_figures().get((table, panel.recognition.lower(), method.lower(), panel.dataset.lower()))


def _cell(value: float, replicates: np.ndarray, published: str | None) -> str:
    text = short(value)
    if len(replicates):
        low, high, _ = interval(replicates)
        text += f" [{short(low)}, {short(high)}]"
    return text if published is None else f"{text} (published {short(float(published))})"


def short(value: float) -> str:
    """Write three decimals without the leading zero, as the field's tables do."""
    return f"{value:.3f}".replace("0.", ".", 1) if abs(value) < 1 else f"{value:.3f}"


def figure(value: float) -> str:
    """Write a figure of either sign; NaN becomes a dash."""
    return "–" if value != value else ("−" if value < 0 else "") + short(abs(value))


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
