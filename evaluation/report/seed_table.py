"""The figures of one recipe under several seeds: mean and spread in the row of a table."""

from collections.abc import Mapping, Sequence

import numpy as np

from evaluation.report.text_table import Table, short


def seed_tables(rows: Sequence[Mapping[str, str]], seeds: Sequence[str], method: str) -> list[Table]:
    """Lay out the rows of pauc.csv: `seeds` are the methods that are one recipe, `method` its name.

    A table for each limit, recognition model, false match rate and condition; a line for each seed, then their mean.
    """
    keys = ("discard_limit", "recognition", "fmr", "alignment", "p")
    kinds = dict.fromkeys(tuple(row[key] for key in keys) for row in rows)
    return [_table([row for row in rows if tuple(row[key] for key in keys) == kind], seeds, method) for kind in kinds]


def _table(rows: Sequence[Mapping[str, str]], seeds: Sequence[str], method: str) -> Table:
    sets = list(dict.fromkeys(row["dataset"] for row in rows))
    values = {(row["method"], row["dataset"]): float(row["pauc"]) for row in rows}
    figures = np.array([[values.get((seed, name), np.nan) for name in sets] for seed in seeds])
    columns = ["method", *sets]
    if len(sets) > 1:
        columns, figures = [*columns, "mean"], np.column_stack([figures, figures.mean(axis=1)])
    lines = [[seed, *map(short, line)] for seed, line in zip(seeds, figures, strict=True)]
    spread = [f"{short(column.mean())} ± {short(column.std(ddof=1))}" for column in figures.T]
    return Table(_title(rows[0]), columns, [*lines, [f"**{method}**", *spread]], _NOTE.format(len(seeds)))


_NOTE = (
    "Normalised pAUC, lower is better. The last line is the mean over {} training seeds and, behind ±, their standard "
    "deviation, which says how far training itself moves the figure; intervals over people are in the evaluation's "
    "pauc.md."
)


def _title(row: Mapping[str, str]) -> str:
    crops = row["alignment"].replace("_quality", " (quality methods only)").replace("_both", " (recognition too)")
    if row["p"] and float(row["p"]):
        crops += f", p = {float(row['p']):g}"
    where = f"at FMR {float(row['fmr']):g}" if row["fmr"] else "at a fixed threshold"
    return f"{row['recognition']}, {crops}: pAUC to {float(row['discard_limit']):g} {where}"
