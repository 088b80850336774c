"""One training run: its parts, and the state that its next step needs."""

import math
from dataclasses import dataclass, field
from typing import Any

import torch

from data.samples.training import TrainingData
from model.objectives.base import Objective
from utils import distributed
from utils.config.train import TrainConfig
from utils.contract import InputContract
from utils.outside.reading import reading
from utils.present import present
from utils.training import checkpoint, optim
from utils.training.ema import WeightAverage
from utils.training.precision import Precision
from utils.training.run_log import RunLog
from utils.training.schedule import Plan


@dataclass
class Run:
    """Hold the parts of one training run; `step` counts finished optimiser steps."""

    cfg: TrainConfig
    contract: InputContract
    data: TrainingData
    objective: Objective
    part: optim.Partition
    optimizer: torch.optim.Optimizer
    ema: WeightAverage
    precision: Precision
    plan: Plan
    folder: checkpoint.RunFolder
    log: RunLog | None = None
    wandb_id: str | None = None
    step: int = 0
    best: float = math.inf
    metrics: dict[str, float] = field(default_factory=dict)

    @property
    def written(self) -> RunLog:
        """Return the log; only the first process has one."""
        return present(self.log)

    @property
    def stored(self) -> dict[str, torch.nn.Module]:
        """Return the modules whose state the next step needs."""
        return {**self.objective.parts(), **self.objective.kept()}

    def state(self, finished: bool) -> dict[str, Any]:
        """Return everything the next step needs."""
        return {
            "step": self.step,
            "finished": finished,
            "best": self.best,
            "parts": {name: part.state_dict() for name, part in self.stored.items()},
            "optimizer": self.optimizer.state_dict(),
            "ema": self.ema.state_dict(),
            "precision": self.precision.state_dict(),
            "rng": checkpoint.rng_state(),
            "log": self.written.position,
            "wandb": self.wandb_id,
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Go back to what `state` gave."""
        with reading(self.folder.resume_path, "does not fit this run", "remove it to start anew", bounded=False):
            self.step, self.best, self.wandb_id = state["step"], state["best"], state["wandb"]
            for name, part in self.stored.items():
                part.load_state_dict(state["parts"][name])
            self.optimizer.load_state_dict(state["optimizer"])
            self.ema.load_state_dict(state["ema"])
            self.precision.load_state_dict(state["precision"])
            checkpoint.restore_rng(state["rng"])

    @property
    def talks(self) -> bool:
        """Tell whether this process shows progress."""
        return self.cfg.base.verbose and distributed.is_main()
