"""The figures as pictures. Colours are those of Okabe and Ito, which colour-blind readers tell apart."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from evaluation.measure.bootstrap import interval
from evaluation.measure.edc import Curve
from evaluation.measure.panel import Panel
from evaluation.measure.robustness import Agreement
from evaluation.report.tables import describe, errors
from evaluation.report.text_table import at
from utils.files import atomic_write
from utils.present import present

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#8C6D31")
DASHES = ("-", (0, (5, 2)), (0, (1, 1.2)), (0, (5, 1.5, 1, 1.5)))
MARKERS = "osD^vPX*"
EXAMPLES = 5
"""Faces in each of the groups lowest, median and highest."""
MAX_EXAMPLE_ROWS = 30
BEST = "best possible"
_STYLE: dict[Any, Any] = {
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.alpha": 0.3,
    "legend.frameon": False,
    "svg.hashsalt": "ai-kd",
}


@dataclass(frozen=True)
class ExampleRow:
    """Hold the faces one method scores lowest, in the middle and highest on one data set."""

    title: str
    crops: np.ndarray
    """(3 * k, 112, 112, 3) uint8, ascending scores."""
    scores: np.ndarray
    """(3 * k,)."""


class Palette:
    """Give each method one look, the same in every picture: colour first, then dash pattern."""

    def __init__(self, methods: Sequence[str]):
        self.rank = {method: i for i, method in enumerate(methods)}

    def __getitem__(self, method: str) -> dict[str, Any]:
        i = self.rank[method]
        return {"color": COLOURS[i % len(COLOURS)], "linestyle": DASHES[i // len(COLOURS) % len(DASHES)]}

    def marker(self, method: str) -> str:
        """Return the marker of a method."""
        return MARKERS[self.rank[method] % len(MARKERS)]


def plot_edc(path: Path, panels: Sequence[Panel], grid: np.ndarray) -> None:
    """Draw FNMR against the discard fraction, a panel each.

    A column per data set and a row per recognition model; with misaligned crops a column per condition, and a row per
    data set and recognition model with one scale. Each false match rate has rows of its own.
    """
    palette = Palette(_methods(panels))
    misaligned = any(panel.aligned is not None for panel in panels)
    places = [_edc_place(panel, misaligned) for panel in panels]
    rows, columns = (list(dict.fromkeys(part)) for part in zip(*places, strict=True))
    if misaligned:  # who sees the crops, then p
        kinds = list(dict.fromkeys(condition.alignment for condition in columns))
        columns.sort(key=lambda condition: kinds.index(condition.alignment))
    several = len({panel.fmr for panel in panels}) > 1
    with matplotlib.rc_context(_STYLE):
        figure, axes = _grid(len(rows), len(columns))
        for ax in axes.flat:
            ax.set_visible(False)
        for panel, (row, column) in zip(panels, places, strict=True):
            ax = axes[rows.index(row), columns.index(column)]
            ax.set_visible(True)
            _draw_edc(ax, panel, grid, palette)
            ax.set_title(_edc_title(panel, several), fontsize=10)
        for line in axes if misaligned else ():
            top = max(ax.get_ylim()[1] for ax in line if ax.get_visible())
            for ax in line:
                ax.set_ylim(0, top)
        _legend(figure, axes)
        _save(figure, path)


def _edc_place(panel: Panel, misaligned: bool) -> tuple:
    if misaligned:
        return (panel.dataset, panel.recognition, panel.fmr), panel.condition
    return (panel.recognition, panel.fmr), panel.dataset


def _edc_title(panel: Panel, several: bool) -> str:
    first = f"{panel.dataset}, {panel.recognition}" + (f", {at(panel.fmr)}" if several else "")
    crops = "" if panel.condition.alignment == "aligned" else f"{describe(panel.condition)}\n"
    return f"{first}\n{crops}{panel.mated:,} mated pairs, {errors(panel)} errors"


def _draw_edc(ax: Axes, panel: Panel, grid: np.ndarray, palette: Palette) -> None:
    limit = grid[-1]
    shade = min(0.15, 0.5 / len(panel.results))
    for method, result in panel.results.items():
        x, y = _outline(result.curve, limit)
        drawn: dict[str, Any] = {"drawstyle": "steps-post"} if result.curve.stepwise else {}
        ax.plot(100 * x, 100 * y, label=method, linewidth=1.6, zorder=3, **palette[method], **drawn)
        if result.band is not None:
            step = "post" if result.curve.stepwise else None
            colour = palette[method]["color"]
            ax.fill_between(100 * grid, *(100 * result.band), step=step, color=colour, alpha=shade, linewidth=0)
    x = np.linspace(0, limit, 400)
    best = np.clip((panel.fnmr0 - x) / (1 - x), 0, None)
    ax.plot(100 * x, 100 * best, color="0.45", linewidth=1, linestyle=(0, (1, 2)), label=BEST)
    ax.set_xlabel("mated pairs discarded, %")
    ax.set_ylabel("FNMR, %")
    ax.set_xlim(0, 100 * limit)
    ax.set_ylim(0, None)


def plot_robustness(path: Path, panels: Sequence[Panel], agreements: Sequence[Agreement], limit: float) -> None:
    """Draw against p: the rank correlation with the aligned scores, then pAUC for each model and kind of condition.

    panels: seeds merged. A row per data set.
    """
    methods = [m for m in _methods(panels) if any(a.method == m for a in agreements)]
    palette = Palette(_methods(panels))
    datasets = list(dict.fromkeys(panel.dataset for panel in panels))
    misaligned = [panel for panel in panels if panel.condition.alignment.startswith("misaligned")]
    places = [(p.recognition, p.condition.alignment, p.fmr) for p in misaligned]
    columns = [one for one in product(*map(dict.fromkeys, zip(*places, strict=True))) if one in places]
    several = len({panel.fmr for panel in panels}) > 1
    with matplotlib.rc_context(_STYLE):
        figure, axes = _grid(len(datasets), 1 + len(columns))
        for row, dataset in enumerate(datasets):
            own = [a for a in agreements if a.dataset == dataset and a.condition.p is not None]
            _draw_agreement(axes[row, 0], dataset, [(m, [a for a in own if a.method == m]) for m in methods], palette)
            for column, (recognition, kind, fmr) in enumerate(columns, start=1):
                chosen = [p for p in panels if (p.dataset, p.recognition, p.fmr) == (dataset, recognition, fmr)]
                chosen = [p for p in chosen if p.condition.alignment in ("aligned", kind)]
                seen = "quality only" if kind.endswith("quality") else "quality and recognition"
                ax = axes[row, column]
                title = f"{dataset}, {recognition}" + (f", {at(fmr)}" if several else "")
                ax.set_title(f"{title}\nmisaligned: {seen}", fontsize=10)
                _draw_pauc(ax, [(m, [p for p in chosen if m in p.results]) for m in methods], limit, palette)
        _legend(figure, axes)
        _save(figure, path)


def _draw_agreement(ax: Axes, dataset: str, series: list[tuple[str, list[Agreement]]], palette: Palette) -> None:
    for method, own in series:
        by_p: dict[float, list[float]] = {0.0: [1.0]}
        for one in own:
            by_p.setdefault(present(one.condition.p), []).append(one.spearman)
        x = sorted(by_p)
        marker = {"marker": palette.marker(method), "markersize": 5}
        ax.plot(x, [np.mean(by_p[p]) for p in x], label=method, **marker, **palette[method])
    ax.set_title(f"{dataset}\nscores against those of aligned crops", fontsize=10)
    ax.set_xlabel("p, template pixels")
    ax.set_ylabel("Spearman correlation")
    ax.set_ylim(None, 1.005)


def _draw_pauc(ax: Axes, series: list[tuple[str, list[Panel]]], limit: float, palette: Palette) -> None:
    for shift, (method, panels) in enumerate(series):
        panels = sorted(panels, key=lambda panel: present(panel.condition.p))
        x = np.array([panel.condition.p for panel in panels]) + 0.06 * (shift - (len(series) - 1) / 2)
        y = np.array([panel.results[method].pauc[limit].normalised for panel in panels])
        marker = {"marker": palette.marker(method), "markersize": 5}
        ax.plot(x, y, label=method, **marker, **palette[method])
        bounds = np.array([interval(panel.results[method].replicates[limit])[:2] for panel in panels])
        if np.isfinite(bounds).all() and len(bounds):
            ax.vlines(x, *bounds.T, color=palette[method]["color"], alpha=0.45, linewidth=1.2)
    ax.axhline(1, color="0.45", linewidth=1, linestyle=(0, (1, 2)))
    ax.set_xlabel("p, template pixels")
    ax.set_ylabel(f"pAUC to {limit:g}")


def plot_examples(path: Path, rows: Sequence[ExampleRow]) -> None:
    """Draw a contact sheet: lowest, median and highest scored faces, a row per data set and method."""
    rows = rows[:MAX_EXAMPLE_ROWS]
    count = max(len(row.scores) for row in rows)
    gap = 0.25
    with matplotlib.rc_context({**_STYLE, "axes.grid": False}):
        figure = Figure(figsize=(count * 0.9 + 2 * gap + 0.3, len(rows) * 1.32 + 0.55), dpi=110)
        width, height = figure.get_size_inches()
        for top, row in enumerate(rows):
            base = height - 0.55 - (top + 1) * 1.32
            figure.text(0.15 / width, (base + 1.19) / height, row.title, fontsize=9, fontweight="bold", va="center")
            group = max(1, len(row.scores) // 3)
            for i, (crop, score) in enumerate(zip(row.crops, row.scores, strict=True)):
                left = 0.15 + i * 0.9 + min(i // group, 2) * gap
                ax = figure.add_axes((left / width, (base + 0.22) / height, 0.86 / width, 0.86 / height))
                ax.imshow(crop)
                ax.set_axis_off()
                figure.text((left + 0.43) / width, (base + 0.12) / height, f"{score:.3g}", fontsize=8, ha="center")
        group = count // 3
        for i, name in enumerate(("lowest", "around the median", "highest")):
            x = 0.15 + (i * group + group / 2) * 0.9 + i * gap
            figure.text(x / width, 1 - 0.25 / height, name, fontsize=10, ha="center", va="center")
        _save(figure, path)


def _outline(curve: Curve, limit: float) -> tuple[np.ndarray, np.ndarray]:
    """Return the curve's points up to the limit, and its value there."""
    inside = curve.discard < limit
    return np.append(curve.discard[inside], limit), np.append(curve.fnmr[inside], curve.at(np.array([limit])))


def _methods(panels: Sequence[Panel]) -> list[str]:
    return list(dict.fromkeys(method for panel in panels for method in panel.results))


def _grid(rows: int, columns: int) -> tuple[Figure, np.ndarray]:
    figure = Figure(figsize=(max(5.2, 4.0 * columns), 3.5 * rows), dpi=130)
    figure.set_layout_engine("constrained", w_pad=0.12, h_pad=0.08)
    return figure, np.atleast_2d(figure.subplots(rows, columns, squeeze=False))


def _legend(figure: Figure, axes: np.ndarray) -> None:
    """Put one legend below all panels and make room for it."""
    found = {}
    for ax in axes.flat:
        for handle, label in zip(*ax.get_legend_handles_labels(), strict=True):
            found.setdefault(label, handle)
    labels = sorted(found, key=lambda label: label == BEST)
    width, height = figure.get_size_inches()
    widest = 0.085 * max(map(len, labels)) + 0.7
    columns = max(1, min(len(labels), int(width / widest)))
    figure.set_size_inches(width, height + 0.25 * -(-len(labels) // columns))
    handles = [found[label] for label in labels]
    figure.legend(handles, labels, loc="outside lower center", ncols=columns, handlelength=2.6)


def _save(figure: Figure, path: Path) -> None:
    with atomic_write(path) as stream:
        figure.savefig(stream, format="png")
