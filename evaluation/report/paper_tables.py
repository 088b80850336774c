"""The figures of an evaluation in the layout of the AI-KD paper, with the printed figure beside each."""

from collections.abc import Mapping, Sequence

import numpy as np

from evaluation.report.published import published_figures
from evaluation.report.text_table import Table, short

DOUBTFUL = ("SER-FIQ", "SDD-FIQA")
"""Rows of the paper that are identical in every cell: one is a duplicate."""
SETS = ("Adience", "LFW", "CPLFW", "CFP-FP", "CALFW", "XQLFW")
"""Columns of the paper, in its order."""
_PRINTED = ("FaceQnet", "SDD-FIQA", "MagFace", "FaceQAN", "SER-FIQ", "CR-FIQA", "DifFIQA(R)")
_PRINTED += tuple(f"AI-KD({x})" for x in _PRINTED[4:])
_TABLES = {"aligned": ("proper", "properly aligned"), "misaligned_quality": ("misaligned", "misaligned")}
_DECORATION = {0: "**", 1: "*"}


def paper_tables(rows: Sequence[Mapping[str, str]], limit: float) -> list[Table]:
    """Lay out the rows of pauc.csv: a table per recognition model, first of aligned, then of misaligned crops."""
    own = [row for row in rows if float(row["discard_limit"]) == limit and row["alignment"] in _TABLES]
    made = []
    for alignment in _TABLES:
        kinds = [row for row in own if row["alignment"] == alignment]
        for p, model, fmr in dict.fromkeys((row["p"], row["recognition"], row["fmr"]) for row in kinds):
            chosen = [row for row in kinds if (row["p"], row["recognition"], row["fmr"]) == (p, model, fmr)]
            made.append(_table(chosen, f"pAUC to {limit:g} at FMR {float(fmr):g}"))
    return made


def _table(rows: Sequence[Mapping[str, str]], measure: str) -> Table:
    table, words = _TABLES[rows[0]["alignment"]]
    if table == "misaligned":
        words += f", p = {float(rows[0]['p']):g} (ours)"
    model = rows[0]["recognition"]
    methods = list(dict.fromkeys([*_PRINTED, *(row["method"] for row in rows)]))
    values = {(row["method"], row["dataset"]): float(row["pauc"]) for row in rows}
    figures = np.array([[values.get((method, name), np.nan) for name in SETS] for method in methods])
    figures = np.column_stack([figures, figures.mean(axis=1)])  # NaN where a data set is missing
    printed = [[_printed(table, model, method, name) for name in (*SETS, "mean")] for method in methods]
    cells = [[_figure(value) for value in line] for line in figures]
    for column in range(figures.shape[1]):
        order = [row for row in np.argsort(figures[:, column], kind="stable") if np.isfinite(figures[row, column])]
        for place, row in enumerate(order[:2]):
            cells[row][column] = f"{_DECORATION[place]}{cells[row][column]}{_DECORATION[place]}"
    lines = [
        [_named(method), *(cell + beside for cell, beside in zip(line, more, strict=True))]
        for method, line, more in zip(methods, cells, printed, strict=True)
    ]
    return Table(f"{model}, {words}: {measure}", ["method", *SETS, "mean"], lines, _note(table))


def _printed(table: str, model: str, method: str, name: str) -> str:
    found = published_figures().get((table, model.lower(), method.lower(), name.lower()))
    return "" if found is None else f" ({short(float(found))})"


def _figure(value: float) -> str:
    return short(value) if np.isfinite(value) else "–"


def _named(method: str) -> str:
    """Mark rows that the paper has not, and those of it that cannot be right."""
    if method not in _PRINTED:
        return f"{method}, ours"
    return f"{method} †" if method in DOUBTFUL else method


def _note(table: str) -> str:
    sentences = [
        "Normalised pAUC, lower is better; best **bold**, second *italic*; in brackets what the paper prints.",
        "Its false match rate, discard limit and threshold rule are not known, so compare rows, not figures.",
        "† The paper's rows of SER-FIQ and SDD-FIQA are identical in every cell: one is a duplicate.",
    ]
    if table == "misaligned":
        sentences.append("How the paper misaligned its test crops is not known; these are ours.")
    return " ".join(sentences)
