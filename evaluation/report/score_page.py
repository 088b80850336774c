"""One HTML page on the scores of a folder: distribution, thresholds, faces from lowest to highest, failures.

No file beside it is needed, and nothing is loaded from elsewhere.
"""

import base64
import hashlib
import html
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from data.tables.names import Names
from data.tables.scores import percentiles_among
from evaluation.report.meaning import PERCENTILES, discard_threshold
from utils.files import atomic_write

EXTREMES = 24
"""Faces shown as the lowest, and as the highest."""
STRIP = 120
"""Faces the slider goes through, evenly spread over the ranks."""
BINS = 100
STEPS = 10_000
"""Discard shares whose threshold the page knows."""
REASONS = 50
"""Kinds of failures that are listed."""
_TEMPLATE = Path(__file__).with_suffix(".html")
_SCRIPT = Path(__file__).with_suffix(".js")


@dataclass(frozen=True)
class ScorePage:
    """Hold what the page shows."""

    title: str
    names: Names
    """All images."""
    rows: np.ndarray
    """(R,) image of each scored face, ascending; at least one."""
    values: np.ndarray
    """(R,) float32 scores, finite."""
    reasons: Mapping[int, str]
    """Row of an image -> why it has no score."""
    facts: Mapping[str, Any]
    """What decided the scores, nested."""

    def shown(self) -> np.ndarray:
        """Return the faces whose pictures the page needs, ascending."""
        return np.unique(np.concatenate(list(_groups(self._ranked).values())))

    def write(self, path: Path, pictures: Mapping[int, bytes]) -> None:
        """Write the page; `pictures`: face -> JPEG, of those that can be shown."""
        script = _SCRIPT.read_text(encoding="utf-8")
        digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
        parts = {
            "title": html.escape(self.title.encode(errors="backslashreplace").decode()),
            "policy": f"default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'sha256-{digest}'",
            "data": json.dumps(self.content(pictures), separators=(",", ":"), allow_nan=False).replace("<", "\\u003c"),
            "script": script,
        }
        page = re.sub(r"\{\{(\w+)\}\}", lambda found: parts[found[1]], _TEMPLATE.read_text(encoding="utf-8"))
        with atomic_write(path, "w") as stream:
            stream.write(page)

    def content(self, pictures: Mapping[int, bytes]) -> dict[str, Any]:
        """Return what the page's script reads, as JSON values."""
        ranked, shown = self._ranked, self.shown()
        values = self.values[ranked]
        ranks = percentiles_among(values, self.values[shown]).tolist()
        place = {int(face): number for number, face in enumerate(shown)}
        groups = {name: [place[int(face)] for face in faces] for name, faces in _groups(ranked).items()}
        wide = values.astype(np.float64)
        counts, edges = np.histogram(wide, BINS if values[-1] > values[0] else 1)
        percentiles = np.percentile(wide, PERCENTILES, overwrite_input=True)
        table = [discard_threshold(values, step / STEPS) for step in range(STEPS)]
        return {
            "count": len(values),
            "kind": "images" if self._one_each() else "faces",
            "summary": self._summary(),
            "histogram": {"low": float(edges[0]), "high": float(edges[-1]), "counts": counts.tolist()},
            "percentiles": [[p, float(f"{v:.6g}")] for p, v in zip(PERCENTILES, percentiles, strict=True)],
            "thresholds": _encoded(np.array([threshold for threshold, _ in table], "<f4")),
            "below": _encoded(np.array([below for _, below in table], "<u4")),
            "faces": [self._face(f, rank, pictures.get(f)) for f, rank in zip(shown.tolist(), ranks, strict=True)],
            "failures": _by_reason(self.names, self.reasons),
            "facts": list(_flat(self.facts)),
            **groups,
        }

    @cached_property
    def _ranked(self) -> np.ndarray:
        """Return the faces, the lowest first."""
        return np.argsort(self.values, kind="stable")

    def _one_each(self) -> bool:
        return self._images() == len(self.rows)

    def _images(self) -> int:
        return 1 + int(np.count_nonzero(self.rows[1:] != self.rows[:-1]))

    def _summary(self) -> str:
        images = f"{self._images():,} of {len(self.names):,} images"
        faces = "" if self._one_each() else f"{len(self.rows):,} faces in "
        return f"{faces}{images} have a quality; higher is better."

    def _face(self, face: int, percentile: float, jpeg: bytes | None) -> dict[str, Any]:
        row = int(self.rows[face])
        first, end = np.searchsorted(self.rows, [row, row + 1])
        number = f", face {face - first}" if end - first > 1 else ""
        return {
            "name": self.names[row] + number,
            "quality": float(str(self.values[face])),
            "percentile": round(percentile, 4),
            "jpeg": base64.b64encode(jpeg).decode() if jpeg else "",
        }


def _groups(ranked: np.ndarray) -> dict[str, np.ndarray]:
    """Choose the faces to show from those in the order of their scores."""
    strip = np.unique(np.linspace(0, len(ranked) - 1, min(STRIP, len(ranked))).round().astype(np.int64))
    return {"lowest": ranked[:EXTREMES], "highest": ranked[::-1][:EXTREMES], "strip": ranked[strip]}


def _by_reason(names: Names, reasons: Mapping[int, str]) -> list[dict[str, Any]]:
    """Count failures by reason, those that differ in numbers only as one, the most frequent first."""
    kinds: dict[str, list[int]] = {}
    for row in sorted(reasons):
        kinds.setdefault(re.sub(r"\d+", "0", reasons[row]), []).append(row)
    ordered = sorted(kinds.values(), key=len, reverse=True)
    listed = [{"reason": reasons[rows[0]], "count": len(rows), "first": names[rows[0]]} for rows in ordered[:REASONS]]
    if rest := sum(map(len, ordered[REASONS:])):
        listed.append({"reason": "other reasons, see failures.csv", "count": rest, "first": ""})
    return listed


def _flat(values: Mapping[str, Any], key: str = "") -> list[list[str]]:
    """Return nested facts as [dotted key, text], without those that are None."""
    rows = []
    for name, value in values.items():
        dotted = f"{key}.{name}" if key else name
        if isinstance(value, Mapping):
            rows += _flat(value, dotted)
        elif value is not None:
            rows.append([dotted, value if isinstance(value, str) else json.dumps(value)])
    return rows


def _encoded(array: np.ndarray) -> str:
    return base64.b64encode(array.tobytes()).decode()
