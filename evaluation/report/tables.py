"""The figures for people: tables for Markdown and HTML."""

from collections.abc import Sequence
from itertools import product

import numpy as np

from evaluation.measure.bootstrap import Comparison, interval
from evaluation.measure.comparisons import method_difference, method_pairs, misalignment_loss, origins
from evaluation.measure.correlation import Correlation
from evaluation.measure.nuisance import Nuisance
from evaluation.measure.panel import Condition, Panel
from evaluation.measure.robustness import Agreement, Outside
from evaluation.report.published import published_figure
from evaluation.report.text_table import Table, at, figure, rate, short, signed
from utils.config.evaluate import EvaluationSection
from utils.present import present

FEW_ERRORS = 20
"""With fewer mated pairs in error, a table says that it tells little."""
FEW_METHODS = 4
"""Up to this many methods, difference_table shows all pairs of them."""


def pauc_tables(panels: Sequence[Panel], section: EvaluationSection) -> list[Table]:
    """Lay out pAUC as in papers: methods x data sets with their mean, a table per limit and kind of figures."""
    kinds = dict.fromkeys((panel.condition, panel.recognition, panel.fmr) for panel in panels)
    return [
        _pauc_table([p for p in panels if (p.condition, p.recognition, p.fmr) == kind], limit, section)
        for limit, kind in product(section.discard_limits, kinds)
    ]


def _pauc_table(panels: Sequence[Panel], limit: float, section: EvaluationSection) -> Table:
    condition, recognition = panels[0].condition, panels[0].recognition
    methods = list(dict.fromkeys(method for panel in panels for method in panel.results))
    with_mean = len(panels) > 1
    values = np.full((len(methods), len(panels) + with_mean), np.nan)
    cells = [["–"] * values.shape[1] for _ in methods]
    duplicate = False
    for row, method in enumerate(methods):
        results = [panel.results.get(method) for panel in panels]
        printed = [published_figure(panel, method) for panel in panels]
        for column, result in enumerate(results):
            if result is not None:
                values[row, column] = result.pauc[limit].normalised
                cells[row][column] = _cell(values[row, column], result.replicates[limit], printed[column])
        if with_mean and None not in results:
            values[row, -1] = np.mean(values[row, :-1])
            replicates = np.mean([present(result).replicates[limit] for result in results], axis=0)
            cells[row][-1] = _cell(values[row, -1], replicates, None)
        duplicate |= method in ("SER-FIQ", "SDD-FIQA") and any(printed)
    for column in range(values.shape[1]):
        if np.isfinite(values[:, column]).any():
            best = int(np.nanargmin(values[:, column]))
            head, space, rest = cells[best][column].partition(" ")
            cells[best][column] = f"**{head}**{space}{rest}"
    title = f"{recognition}, {describe(condition)}: pAUC to {limit:g} {at(panels[0].fmr)}"
    columns = ["method", *(panel.dataset for panel in panels), *(["mean"] if with_mean else [])]
    rows = [[method, *row] for method, row in zip(methods, cells, strict=True)]
    return Table(
        title, columns, rows, _note(panels, section, any("published" in c for r in cells for c in r), duplicate)
    )


def _note(panels: Sequence[Panel], section: EvaluationSection, published: bool, duplicate: bool) -> str:
    sentences = [f"Normalised pAUC, lower is better, 1 is no gain; rule {section.rule}.", intervals(section)]
    sentences += [
        f"FNMR(0) on {panel.dataset}: {panel.fnmr0:.4f}, {errors(panel)} of {panel.mated:,} mated pairs."
        for panel in panels
    ]
    if given := [panel.dataset for panel in panels if panel.given_threshold]:
        sentences.append(f"On {', '.join(given)} the threshold comes from elsewhere and is held fixed.")
    few = [f"{errors(panel)} on {panel.dataset}" for panel in panels if 0 < panel.errors < FEW_ERRORS]
    if few:
        sentences.append(f"Mated pairs in error: {', '.join(few)}; too few to tell methods apart.")
    if any(panel.errors == 0 for panel in panels):
        sentences.append("nan: without any error there is nothing to gain.")
    for panel in panels:
        if panel.aligned and (absent := [name for name in panel.aligned.results if name not in panel.results]):
            sentences.append(f"Not here on {panel.dataset}: {', '.join(absent)}; no scores of these crops.")
    if published:
        sentences.append("(published ...): the figure printed in the AI-KD paper; its protocol is partly unknown.")
    if duplicate:
        sentences.append("The paper's rows of SER-FIQ and SDD-FIQA are identical in every cell: one is a duplicate.")
    return " ".join(sentence for sentence in sentences if sentence)


def intervals(section: EvaluationSection) -> str:
    """Say what the intervals in brackets are; nothing without bootstrap."""
    if not section.bootstrap:
        return ""
    threshold = "the threshold drawn anew with them" if section.bootstrap_threshold else "the threshold held fixed"
    drawn = f"{section.bootstrap} bootstrap replicates over identities, the same for every method"
    return f"Intervals are the 95 % ones of {drawn}, {threshold}."


def errors(panel: Panel) -> str:
    """Write how many mated pairs are in error without discard; with a tenth where it is a mean over seeds."""
    return f"{panel.errors:,.1f}".removesuffix(".0")


def set_table(panels: Sequence[Panel], remarks: Sequence[str] = ()) -> Table:
    """Lay out what each recognition model does before anything is discarded, with what was left out."""
    rows = []
    for panel in panels:
        place = [panel.dataset, panel.recognition, describe(panel.condition), rate(panel.fmr)]
        counts = [f"{panel.mated:,}", f"{panel.non_mated:,}", f"{panel.threshold:.4f}", f"{100 * panel.fnmr0:.2f}"]
        rows.append([*place, *counts, errors(panel), f"{100 * panel.accuracy:.2f}"])
    columns = ["data set", "recognition", "crops", "FMR", "mated", "non-mated", "threshold", "FNMR %", "errors"]
    note = "Balanced accuracy: mated and non-mated pairs weigh alike, the threshold is the best one of the other folds."
    note = " ".join([note, *(remark if remark.endswith("?") else f"{remark}." for remark in remarks)])
    return Table("Recognition without discarding", [*columns, "balanced accuracy %"], rows, note)


def difference_table(panels: Sequence[Panel], limit: float, section: EvaluationSection) -> Table:
    """Lay out the differences among X and what was made of it, and, where there are few methods, every difference."""
    rows = []
    for panel in panels:
        source = origins(panel.results)
        for a, b in method_pairs(panel.results):
            if source[a] == source[b] or len(panel.results) <= FEW_METHODS:
                rows.append([*_place(panel), f"{a} − {b}", *_compared(method_difference(panel, a, b, limit))])
    columns = ["data set", "recognition", "crops", "FMR", "errors", "A − B", "pAUC difference", "95 % interval"]
    note = "Negative: A is better. Both methods are measured on the same pairs and the same replicates."
    note = f"{note} Errors: mated pairs in error without discard. {intervals(section)}".strip()
    return Table(f"Differences of pAUC to {limit:g}", [*columns, "P(A better)"], rows, note)


def loss_table(panels: Sequence[Panel], limit: float, section: EvaluationSection) -> Table:
    """Lay out what each method itself loses on misaligned crops."""
    rows = []
    for panel in panels:
        for method in panel.results if panel.aligned else ():
            before, after = (one.results[method].pauc[limit].normalised for one in (present(panel.aligned), panel))
            found = _compared(misalignment_loss(panel, method, limit))[:2]
            rows.append([*_place(panel), method, short(before), short(after), *found])
    columns = ["data set", "recognition", "crops", "FMR", "errors", "method", "aligned", "misaligned"]
    note = "Difference: pAUC on these crops minus pAUC on aligned crops of the same pairs, on the same replicates; "
    note = f"{note}positive: misalignment costs. Errors: mated pairs in error without discard. {intervals(section)}"
    title = f"What misalignment costs each method: pAUC to {limit:g}"
    return Table(title, [*columns, "difference", "95 % interval"], rows, note.strip())


def _place(panel: Panel) -> list[str]:
    return [panel.dataset, panel.recognition, describe(panel.condition), rate(panel.fmr), errors(panel)]


def _compared(found: Comparison) -> list[str]:
    if found.low != found.low:
        return [signed(found.difference), "–", "–"]
    bounds = f"[{signed(found.low)}, {signed(found.high)}]"
    return [signed(found.difference), bounds, f"{found.probability_better:.3f}"]


def agreement_table(agreements: Sequence[Agreement]) -> Table:
    """Lay out how far scores of misaligned crops follow those of aligned ones: means over seeds."""
    rows = []
    keys = [(one.dataset, one.method, one.condition.alignment, one.condition.p) for one in agreements]
    for key in dict.fromkeys(keys):
        own = [one for one, place in zip(agreements, keys, strict=True) if place == key]
        rho = np.array([one.spearman for one in own])
        spread = f" ({rho.min():.3f} to {rho.max():.3f})" if len(own) > 1 else ""
        crops = crops_of(own[0].condition)
        change = float(np.mean([one.mean_abs_change for one in own]))
        rows.append([key[0], key[1], crops, f"{rho.mean():.3f}{spread}", f"{change:.4g}"])
    columns = ["data set", "method", "crops", "Spearman (over seeds)", "mean absolute change"]
    return Table("Scores of misaligned crops against those of aligned crops", columns, rows)


def outside_table(found: Sequence[Outside]) -> Table:
    """Lay out how far crops reach beyond their images: means over seeds, and the largest of any crop."""
    rows = []
    keys = [(one.dataset, one.condition.alignment, one.condition.p, one.border) for one in found]
    for key in dict.fromkeys(keys):
        own = [one for one, place in zip(found, keys, strict=True) if place == key]
        dataset, border, crops = own[0].dataset, own[0].border, crops_of(own[0].condition)
        share, most = 100 * np.mean([one.mean for one in own]), 100 * max(one.most for one in own)
        rows.append([dataset, crops, f"{share:.1f}", f"{most:.1f}", border])
    columns = ["data set", "crops", "mean %", "largest %", "shown there"]
    note = "Share of a crop's pixels whose source lies outside its image, from geometry, not from what they show."
    return Table("How far crops reach beyond their images", columns, rows, note)


def fnmr_table(panels: Sequence[Panel], limit: float) -> Table:
    """Lay out the FNMR after discarding 0, 10, 20, ... % of the mated pairs, aligned crops."""
    shares = [share for share in np.arange(0, 1, 0.1) if share <= limit + 1e-9]
    rows = []
    for panel in panels:
        for method, result in panel.results.items():
            cells = [f"{100 * value:.2f}" for value in result.curve.at(np.array(shares) + 1e-12)]
            rows.append([panel.dataset, panel.recognition, rate(panel.fmr), errors(panel), method, *cells])
    columns = ["data set", "recognition", "FMR", "errors", "method", *(f"{100 * share:.0f} %" for share in shares)]
    return Table("FNMR in % after discarding the worst", columns, rows)


def describe(condition: Condition) -> str:
    """Name a condition for people."""
    seen = "quality methods only" if condition.alignment.endswith("quality") else "quality and recognition"
    if condition.alignment == "aligned":
        return "aligned"
    if condition.p is None:
        return f"{crops_of(condition)} ({seen})"
    return f"misaligned p = {condition.p:g} ({seen})"


def crops_of(condition: Condition) -> str:
    """Name the crops of a condition in a word or two, whoever saw them."""
    if condition.p is None:
        return "box" if condition.alignment.startswith("box") else "second landmark file"
    return f"p = {condition.p:g}" if condition.p else "aligned"


def _cell(value: float, replicates: np.ndarray, published: str | None) -> str:
    text = short(value)
    if len(replicates):
        low, high, _ = interval(replicates)
        text += f" [{short(low)}, {short(high)}]"
    return text if published is None else f"{text} (published {short(float(published))})"


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


def nuisance_tables(found: list[Nuisance]) -> list[Table]:
    """Lay out the correlations, and the medians over bins."""
    tables = []
    for one in found:
        if not one.spearman:
            continue
        methods = list(next(iter(one.spearman.values())))
        rows = [[method, *(figure(one.spearman[column][method]) for column in one.spearman)] for method in methods]
        note = "Spearman correlation of the scores with each nuisance; below 0: the score falls with it."
        tables.append(Table(f"{one.dataset}: what lowers a score", ["method", *one.spearman], rows, note))
    return tables


def bin_tables(found: list[Nuisance]) -> list[Table]:
    """Lay out the medians of scores and mated similarities over the bins of each nuisance."""
    tables = []
    for one in found:
        if not one.bins:
            continue
        names = list(one.bins[0].medians)
        rows = [
            [row.column, f"{row.low:.3g} to {row.high:.3g}", str(row.images), *(figure(row.medians[n]) for n in names)]
            for row in one.bins
        ]
        tables.append(Table(f"{one.dataset}: medians over bins", ["nuisance", "range", "images", *names], rows))
    return tables
