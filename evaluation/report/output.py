"""What an evaluation leaves behind: CSV files, pauc.md, pictures and the report page."""

import platform
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from evaluation.measure import nuisance
from evaluation.measure.correlation import Correlation
from evaluation.measure.panel import Measure, Panel
from evaluation.measure.robustness import Agreement, Outside
from evaluation.protocol import views
from evaluation.protocol.conditions import Findings
from evaluation.report import csv_files, plots, tables
from evaluation.report.meaning import percentile_table, threshold_table
from evaluation.report.page import Section, write_report
from evaluation.report.text_table import Table
from utils.config import dump_config
from utils.config.evaluate import EvaluateConfig
from utils.files import atomic_write
from utils.present import present

_READING = (
    "A curve shows the false non-match rate (FNMR) that remains when the mated pairs of lowest quality are discarded, "
    "the quality of a pair being the lower one of its two images. {rule} "
    "pAUC is the area under the curve up to the limit, divided by FNMR(0) times the limit: lower is better, 1 is no "
    "gain. {intervals}"
)
_RULES = {
    "fixed_threshold": "The threshold is set once, on all non-mated pairs.",
    "pooled_rethreshold": "As in CR-FIQA's evaluation all pairs share one ranking, and at every 5 % of it the "
    "threshold is set anew: the score of a remaining pair, mated or not, whose FMR is closest to the target.",
    "pooled_floor": "All pairs share one ranking, and at every 5 % of it the threshold is set anew to the lowest "
    "non-mated score, of the pairs that remain, whose FMR is at most the target.",
}


class Output:
    """Collect findings; tables are on disk after each data set, pictures and the report at the end."""

    def __init__(self, folder: Path, cfg: EvaluateConfig):
        self.folder, self.cfg, self.section = folder, cfg, cfg.evaluation
        self.grid = Measure(cfg.evaluation, cfg.base.seed).grid
        self.findings: list[Findings] = []
        with atomic_write(folder / "config.yaml", "w") as stream:
            stream.write(dump_config(cfg))

    @property
    def panels(self) -> list[Panel]:
        """Return the panels of all data sets, seeds merged."""
        return [panel for each in self.findings for panel in each.panels]

    @property
    def aligned(self) -> list[Panel]:
        """Return the panels of aligned crops."""
        return [panel for panel in self.panels if panel.condition.alignment == "aligned"]

    @property
    def agreements(self) -> list[Agreement]:
        """Return how far misaligned scores follow aligned ones."""
        return [one for each in self.findings for one in each.agreements]

    @property
    def correlations(self) -> list[Correlation]:
        """Return how alike the methods rank the images."""
        return [one for each in self.findings for one in each.correlations]

    @property
    def outside(self) -> list[Outside]:
        """Return how far crops reach beyond their images."""
        return [one for each in self.findings for one in each.outside]

    @property
    def remarks(self) -> list[str]:
        """Return what was left out and why, and what cannot be right."""
        return [remark for each in self.findings for remark in (*each.remarks, *each.doubts)]

    @property
    def nuisances(self) -> list[nuisance.Nuisance]:
        """Return how scores follow known nuisance, for data sets with metadata."""
        return [each.nuisance for each in self.findings if each.nuisance is not None]

    def add(self, found: Findings) -> None:
        """Take one data set's figures and write all tables anew."""
        self.findings.append(found)
        limits = self.section.discard_limits
        seeds = [panel for each in self.findings for panel in each.seed_panels]
        files = {
            "pauc.csv": (csv_files.PAUC_COLUMNS, csv_files.pauc_rows(self.panels, self.section)),
            "edc.csv": (csv_files.EDC_COLUMNS, csv_files.edc_rows(self.panels, self.grid, self.section)),
            "differences.csv": (csv_files.DIFFERENCE_COLUMNS, csv_files.difference_rows(self.panels, self.section)),
            "losses.csv": (csv_files.LOSS_COLUMNS, csv_files.loss_rows(self.panels, self.section)),
            "robustness.csv": (csv_files.ROBUSTNESS_COLUMNS, csv_files.robustness_rows(seeds, self.agreements, limits)),
            "correlation.csv": (csv_files.CORRELATION_COLUMNS, csv_files.correlation_rows(self.correlations)),
        }
        if self.nuisances:
            files["nuisance.csv"] = (csv_files.NUISANCE_COLUMNS, csv_files.nuisance_rows(self.nuisances))
        for name, (columns, rows) in files.items():
            csv_files.write_csv(self.folder / name, columns, rows)
        with atomic_write(self.folder / "pauc.md", "w") as stream:
            stream.write("\n".join(table.markdown() for table in self.pauc_tables()))

    def pauc_tables(self) -> list[Table]:
        """Return all of pauc.md."""
        found = tables.pauc_tables(self.panels, self.section)
        found += self._differences(self.panels)
        found += [tables.agreement_table(self.agreements), tables.outside_table(self.outside)]
        found += tables.correlation_tables(self.correlations)
        found += [tables.fnmr_table(self.aligned, self.grid[-1]), tables.set_table(self.panels, self.remarks)]
        return _filled(found)

    def finish(self) -> str:
        """Draw the pictures, write the report, and return what to tell the user."""
        limit = max(self.section.discard_limits)
        pictures = self._pictures(limit)
        thresholds = self._thresholds()
        self._report(pictures, thresholds)
        section = self.section.model_copy(update={"discard_limits": (limit,)})
        shown = [tables.set_table(self.aligned, self.remarks), *tables.pauc_tables(self.panels, section)]
        shown += [make(self.panels, limit, section) for make in (tables.difference_table, tables.loss_table)]
        shown += [tables.agreement_table(self.agreements), tables.outside_table(self.outside)]
        shown += tables.correlation_tables(self.correlations) + tables.nuisance_tables(self.nuisances)
        text = "\n".join(table.markdown() for table in shown if table.rows)
        with atomic_write(self.folder / "summary.md", "w") as stream:
            stream.write(text)
        written = ("pauc", "differences", "losses", "correlation", "edc", "robustness")
        pages = ["report.html", "pauc.md", *(f"{name}.csv" for name in written)]
        files = ", ".join([*pages, *(picture.name for picture in pictures.values())])
        return f"{text}\nIn {self.folder}: {files}\n"

    def _pictures(self, limit: float) -> dict[str, Path]:
        drawn = {"edc": self.folder / "edc.png"}
        plots.plot_edc(drawn["edc"], self.panels, self.grid)
        others = {name: self.folder / f"{name}.png" for name in ("robustness", "examples")}
        for path in others.values():
            path.unlink(missing_ok=True)
        if any(one.condition.p is not None for one in self.agreements):
            drawn["robustness"] = others["robustness"]
            plots.plot_robustness(drawn["robustness"], self.panels, self.agreements, limit)
        rows = [row for each in self.findings for row in example_rows(each)]
        if rows:
            drawn["examples"] = others["examples"]
            plots.plot_examples(drawn["examples"], rows)
        return drawn

    def _thresholds(self) -> list[Table]:
        found = []
        for each in self.findings:
            for method, values in each.quality.items():
                title, scores = f"{each.faces.name}, {method}", values[each.scored(method)]
                found.append(threshold_table(title, scores, self.cfg.thresholds.discard))
                found.append(percentile_table(title, scores))
        return found

    def _report(self, pictures: dict[str, Path], thresholds: list[Table]) -> None:
        alike = tables.correlation_tables(self.correlations)
        misaligned = " ".join((views.__doc__ or "").partition("\n\n")[2].split()) if self.cfg.misalignment else ""
        versions = f"Python {platform.python_version()}, numpy {np.__version__}, torch {torch.__version__}"
        reading = _READING.format(rule=_RULES[self.section.rule], intervals=tables.intervals(self.section))
        parts = [
            Section("Error versus discard", reading.strip(), images=[pictures["edc"]]),
            Section("pAUC", tables=tables.pauc_tables(self.aligned, self.section)),
            Section("Differences", tables=self._differences(self.aligned)),
            Section("Agreement of methods", tables=alike),
        ]
        if misaligned:
            others = [panel for panel in self.panels if panel.condition.alignment != "aligned"]
            found = [tables.agreement_table(self.agreements), tables.outside_table(self.outside)]
            found += tables.pauc_tables(others, self.section)
            found += self._differences(others)
            parts.append(Section("Misaligned faces", misaligned, _filled(found), _picked(pictures, "robustness")))
        if self.nuisances:
            found = tables.nuisance_tables(self.nuisances) + tables.bin_tables(self.nuisances)
            parts.append(Section("Nuisance", " ".join((nuisance.__doc__ or "").partition("\n\n")[2].split()), found))
        found = [tables.set_table(self.panels, self.remarks), tables.fnmr_table(self.aligned, self.grid[-1])]
        parts.append(Section("Data sets", tables=found))
        if "examples" in pictures:
            parts.append(Section("Examples", "Aligned crops with their scores.", images=[pictures["examples"]]))
        meaning = "Keep an image when its score is at least the threshold; figures are shares of images, not of pairs."
        parts.append(Section("What a score means", meaning, thresholds))
        parts.append(Section("Configuration", versions, code=dump_config(self.cfg)))
        write_report(self.folder / "report.html", "Face image quality: evaluation", [p for p in parts if _content(p)])

    def _differences(self, panels: Sequence[Panel]) -> list[Table]:
        section = self.section
        makers = (tables.difference_table, tables.loss_table)
        return _filled([make(panels, limit, section) for limit in section.discard_limits for make in makers])


def example_rows(findings: Findings) -> list[plots.ExampleRow]:
    """Cut the faces each method scores lowest, in the middle and highest; none without images."""
    crops, count = findings.faces.crops, plots.EXAMPLES
    rows = []
    for method, values in findings.quality.items():
        used = findings.scored(method)
        if crops is None or len(used) < 3 * count:
            continue
        order = used[np.argsort(values[used], kind="stable")]
        middle = (len(order) - count) // 2
        chosen = np.concatenate([order[:count], order[middle : middle + count], order[-count:]])
        batch = crops.take(present(findings.faces.rows)[chosen]).__getitems__(range(len(chosen)))
        title = f"{findings.faces.name}, {method}"
        rows.append(plots.ExampleRow(title, batch.images.numpy(), values[chosen][batch.rows]))
    return rows


def _filled(found: list[Table]) -> list[Table]:
    return [table for table in found if table.rows]


def _picked(pictures: dict[str, Path], name: str) -> list[Path]:
    return [pictures[name]] if name in pictures else []


def _content(section: Section) -> bool:
    return bool(section.tables or section.images or section.code)
