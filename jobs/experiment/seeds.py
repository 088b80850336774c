"""One recipe trained under several seeds, and all of them evaluated together."""

from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, NonNegativeInt, model_validator

from jobs.experiment.steps import CommandStep, write_yaml
from jobs.methods import load_training
from utils.config import load_config
from utils.config.evaluate import EvaluateConfig
from utils.config.loading import Flag, StrictModel, UserPath, read_yaml


class SeedsBase(StrictModel):
    """The run."""

    save_path: UserPath = "runs/seeds"
    """Folder for the trainings, their evaluation and the table."""
    verbose: Flag = True
    """0: the table and errors only."""


class SeedsConfig(StrictModel):
    """The whole of seeds_config.yaml."""

    base: SeedsBase = SeedsBase()
    method: str
    """Name of the method in the table."""
    train: UserPath
    """Training configuration of a method that predicts quality."""
    changes: dict[str, Any] = Field(default_factory=dict)
    """Dotted keys of the training configuration and their values."""
    seeds: Annotated[tuple[NonNegativeInt, ...], Field(min_length=2)]
    """base.seed of each training."""
    weights: Literal["best", "last"] = "best"
    """Which weights of each training count."""
    evaluation: UserPath
    """evaluate_config.yaml whose data sets, recognition models and misalignment count; its scores are left out."""

    @model_validator(mode="after")
    def _check(self) -> "SeedsConfig":
        if len(set(self.seeds)) != len(self.seeds):
            raise ValueError("seeds names a seed twice")
        for key in ("base.seed", "base.save_path", "base.resume"):
            if key in self.changes:
                raise ValueError(f"changes: {key} is set for each seed; remove it")
        return self

    @property
    def rows(self) -> list[str]:
        """Return the name of each training as a method of the evaluation."""
        return [f"{self.method}, seed {seed}" for seed in self.seeds]


def seed_steps(cfg: SeedsConfig) -> list[CommandStep]:
    """Return the trainings and their evaluation; raises ConfigError where one of the configurations is wrong."""
    out = Path(cfg.base.save_path).absolute()
    read = read_yaml(cfg.evaluation)
    steps, scores = [], {}
    for name, seed in zip(cfg.rows, cfg.seeds, strict=True):
        folder = out / f"seed-{seed}"
        changes = {**cfg.changes, "base.seed": seed, "base.verbose": int(cfg.base.verbose)}
        step = CommandStep(f"train {name}", "train_main.py", Path(cfg.train), folder, changes)
        found = load_training(cfg.train, step.arguments()[2:])
        inputs = (getattr(found.dataset, key, None) for key in ("quality_location", "landms_location"))
        network = Path(found.model.config)
        scores[name] = {
            "weights": str(folder / f"{found.base.method}-{cfg.weights}.pth"),
            "config": str(network.absolute()),
        }
        steps.append(replace(step, inputs=[network, *(Path(path) for path in inputs if path)]))
    base = {**read.get("base", {}), "save_path": str(out / "evaluation")}
    config = write_yaml(out / "evaluate.yaml", {**read, "base": base, "scores": scores})
    load_config(EvaluateConfig, config)
    weights = [Path(one["weights"]) for one in scores.values()]
    return [*steps, CommandStep(f"evaluate {cfg.method}", "evaluate.py", config, out / "evaluation", {}, weights)]
