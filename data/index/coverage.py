"""What the index found: counts, unmatched names, label range and direction, as numbers and as lines."""

from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np

from utils.config.train import DatasetConfig
from utils.errors import DataError


@dataclass(frozen=True)
class LabelScaling:
    """How labels became targets: negated when lower is better, then mapped to [0, 1].

    minmax: (label - low) / (high - low); rank: mean rank of equal labels over N - 1; none: as they are.
    """

    method: Literal["minmax", "rank", "none"]
    higher_is_better: bool
    low: float
    """Smallest label of the file, before negation."""
    high: float
    """Largest label of the file, before negation."""

    @classmethod
    def fit(cls, labels: np.ndarray, cfg: DatasetConfig) -> "LabelScaling":
        """Take the constants from the labels of the images in use."""
        low, high = float(labels.min()), float(labels.max())
        if cfg.label_scaling != "none" and not high > low:
            raise DataError(
                f"{cfg.quality_location}: all {len(labels)} labels in use are {low:g}, so nothing can be learnt from "
                "them; name another file or set dataset.label_scaling: none"
            )
        return cls(cfg.label_scaling, bool(cfg.higher_is_better), low, high)

    def apply(self, labels: np.ndarray) -> np.ndarray:
        """Return float32 targets, higher is better."""
        if self.method == "minmax":
            scaled = (labels - self.low) / (self.high - self.low)
            return (scaled if self.higher_is_better else 1 - scaled).astype(np.float32)
        signed = labels if self.higher_is_better else -labels
        return (signed if self.method == "none" else _ranks(signed)).astype(np.float32)


def _ranks(values: np.ndarray) -> np.ndarray:
    """Return mean ranks, the lowest 0 and the highest 1 where they are unique."""
    _, group, counts = np.unique(values, return_inverse=True, return_counts=True)
    mean_rank = np.cumsum(counts) - (counts + 1) / 2
    return mean_rank[group.reshape(-1)] / max(1, len(values) - 1)


@dataclass(frozen=True)
class TableCoverage:
    """How one file covers the images."""

    path: str
    rows: int
    matched: int
    unmatched: tuple[str, ...]
    """The first images without a row."""
    first_key: str
    image_folders: int
    """Leading folders dropped from the image names to match."""
    key_folders: int
    """Leading folders dropped from the file's names to match."""
    remarks: tuple[str, ...] = ()
    """How the file was read, and what is odd about its values."""


@dataclass(frozen=True)
class Coverage:
    """What was found below a folder and in the files beside it."""

    root: str
    images: int
    other_files: int
    used: int
    """Images in the index."""
    landmarks: TableCoverage | None = None
    labels: TableCoverage | None = None
    scaling: LabelScaling | None = None
    classes: int | None = None
    remarks: tuple[str, ...] = ()
    """What is odd about the images' folders."""
    others: str = ""
    """Count and kinds of the other files, in words."""
    aligned_copies: bool = False
    """The images have no landmarks because they are aligned crops already; to be misaligned in training."""

    def require_complete(self) -> None:
        """Raise DataError when an image has no landmarks or no label."""
        for what, table in (("landmarks", self.landmarks), ("quality label", self.labels)):
            if table is not None and table.unmatched:
                raise DataError(
                    f"{table.path}: {self.images - table.matched} of {self.images} images have no {what}, first: "
                    f"{table.unmatched[0]!r}; add them, fix the prefix with dataset.key_root or set "
                    "dataset.on_missing: skip"
                )

    def lines(self) -> list[str]:
        """Return the report, a line per fact."""
        report = [f"{self.images:,} images in {self.root}" + (f" ({self.others})" if self.other_files else "")]
        for name, table in (("landmarks", self.landmarks), ("labels", self.labels)):
            if table is None:
                continue
            matched = f"{table.matched:,} of {self.images:,} images matched"
            report.append(f"{name}: {matched}, {table.rows:,} rows in {table.path}")
            report += [f"{name}: {remark}" for remark in table.remarks]
            if table.key_folders or table.image_folders:
                report.append(
                    f"{name}: matched without the first {table.key_folders} folders of the file's names "
                    f"and {table.image_folders} of the images' (the file starts with {table.first_key!r})"
                )
            if table.unmatched:
                report.append(f"{name}: no row for {', '.join(map(repr, table.unmatched))}" + _more(self, table))
        if self.aligned_copies:
            report.append(
                "landmarks: none, the images are aligned copies; a crop misaligned from one reaches beyond it"
            )
        if self.scaling is not None:
            span = f"from {self.scaling.low:g} to {self.scaling.high:g}"
            direction = "higher is better" if self.scaling.higher_is_better else "lower is better (negated)"
            report.append(f"labels: {span}, {direction}, scaling {self.scaling.method}")
        if self.classes is not None:
            report += [f"identities: {self.classes:,}", *(f"identities: {remark}" for remark in self.remarks)]
        if self.used != self.images:
            report.append(f"in use: {self.used:,} images, {self.images - self.used:,} left out")
        return report

    def to_dict(self) -> dict[str, Any]:
        """Return JSON values."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "Coverage":
        """Restore what to_dict gave."""
        values = dict(values)
        for name in ("landmarks", "labels"):
            if values[name] is not None:
                values[name] = TableCoverage(
                    **values[name] | {key: tuple(values[name][key]) for key in ("unmatched", "remarks")}
                )
        if values["scaling"] is not None:
            values["scaling"] = LabelScaling(**values["scaling"])
        values["remarks"] = tuple(values["remarks"])
        return cls(**values)


def _more(coverage: Coverage, table: TableCoverage) -> str:
    rest = coverage.images - table.matched - len(table.unmatched)
    return f" and {rest:,} more" if rest else ""
