"""The figures printed in the AI-KD paper."""

import csv
from functools import cache
from pathlib import Path

from evaluation.measure.panel import Panel
from utils.errors import DataError

PUBLISHED = Path(__file__).with_name("published.csv")


@cache
def published_figures() -> dict[tuple[str, str, str, str], str]:
    """Read the paper's printed figures: (table, recognition model, method, data set), lower case -> pAUC."""
    try:
        with open(PUBLISHED, encoding="utf-8", newline="") as stream:
            rows = list(csv.DictReader(stream))
    except OSError as error:
        raise DataError(f"{PUBLISHED}: cannot be read ({error.strerror}); restore the file") from error
    return {
        (row["table"].lower(), row["fr_model"].lower(), row["method"].lower(), row["dataset"].lower()): row["pauc"]
        for row in rows
    }


def published_figure(panel: Panel, method: str) -> str | None:
    """Return the printed pAUC of the method on the panel's data set, None where the paper has none."""
    table = "proper" if panel.condition.alignment == "aligned" else "misaligned"
    return published_figures().get((table, panel.recognition.lower(), method.lower(), panel.dataset.lower()))
