"""The log of a training run: metrics.jsonl, curves.png and, when wanted, Weights & Biases."""

import json
import logging
import math
import time
from pathlib import Path
from typing import Any

from utils.config.train import WandbConfig
from utils.errors import ConfigError
from utils.files import atomic_write, writing

_log = logging.getLogger(__name__)


class RunLog:
    """Append one JSON object per line and remember how far the file goes."""

    def __init__(self, folder: Path, position: int = 0):
        """Open metrics.jsonl, cut back to `position` bytes (what a resumed run had written by its resume point)."""
        self.path = folder / "metrics.jsonl"
        self.stream = open(self.path, "ab")
        if (size := self.stream.seek(0, 2)) < position:
            _log.warning(f"{self.path}: {position - size} bytes of earlier steps are missing; the weights need none")
        self.stream.truncate(min(position, size))
        self.wandb = None
        self.drawn = -math.inf

    @property
    def position(self) -> int:
        """Return the number of bytes written."""
        self.stream.flush()
        return self.stream.seek(0, 2)

    def use_wandb(self, cfg: WandbConfig, settings: dict[str, Any], run_id: str | None) -> str | None:
        """Start a Weights & Biases run when the configuration asks for one; return its id for a resume."""
        if not cfg.use:
            return None
        try:
            import wandb
        except ImportError as error:
            raise ConfigError("wandb.use: the package wandb is not installed; install it or set wandb.use=0") from error
        try:
            resume = "allow" if run_id else None
            self.wandb = wandb.init(
                project=cfg.project, config=settings, dir=self.path.parent, id=run_id, resume=resume
            )
        except (wandb.Error, OSError) as error:
            raise ConfigError(
                f"wandb.use: no run could be started ({error}); log in, set WANDB_MODE=offline, or set wandb.use=0"
            ) from error
        return self.wandb.id

    def scalars(self, step: int, values: dict[str, float]) -> None:
        """Write one line; NaN and infinity become null."""
        known = {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in values.items()}
        with writing(self.path):
            self.stream.write(json.dumps({"step": step, **known}).encode() + b"\n")
            self.stream.flush()
        if self.wandb is not None:
            self.wandb.log(values, step=step)

    def draw_curves(self, terms: tuple[str, ...], at_most_every_s: float = 0.0) -> None:
        """Draw curves.png, unless that was done a moment ago."""
        if time.monotonic() - self.drawn >= at_most_every_s:
            draw_curves(self.path.parent, terms)
            self.drawn = time.monotonic()

    def close(self) -> None:
        """Close the file and the Weights & Biases run."""
        self.stream.close()
        if self.wandb is not None:
            self.wandb.finish()


def read_metrics(path: str | Path) -> list[dict[str, Any]]:
    """Read metrics.jsonl; lines that are no objects with a step, as one cut off by a crash, are left out."""
    rows = []
    for line in Path(path).read_bytes().splitlines():
        try:
            row = json.loads(line)
            if isinstance(row["step"], int):
                rows.append(row)
        except (ValueError, LookupError, TypeError, RecursionError):
            continue
    return rows


def draw_curves(folder: Path, terms: tuple[str, ...]) -> None:
    """Draw curves.png: each loss term, training and validation, over the steps."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    rows = read_metrics(folder / "metrics.jsonl")
    figure = Figure(figsize=(4.6 * (len(terms) + 1), 3.6), layout="constrained")
    axes = figure.subplots(1, len(terms) + 1)
    for axis, term in zip(axes, terms):
        _line(axis, rows, term, label="training", color="0.6", linewidth=1)
        for kind, color in (("aligned", "#0072B2"), ("misaligned", "#D55E00")):
            _line(axis, rows, f"val/{term}_{kind}", label=f"validation, {kind}", color=color, marker="o", markersize=3)
        axis.set(title=f"{term} loss", xlabel="step")
        if axis.lines:
            axis.legend(frameon=False, fontsize=8)
    _line(axes[-1], rows, "lr", color="0.3")
    axes[-1].set(title="learning rate", xlabel="step", ylim=(0, None))
    for axis in axes:
        axis.spines[["top", "right"]].set_visible(False)
    with atomic_write(folder / "curves.png") as stream:
        FigureCanvasAgg(figure).print_png(stream)


def _line(axis: Any, rows: list[dict], key: str, **style: Any) -> None:
    points = [(row["step"], row[key]) for row in rows if isinstance(row.get(key), int | float)]
    if points:
        axis.plot(*zip(*points), **style)
