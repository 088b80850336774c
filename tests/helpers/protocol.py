"""The misalignment protocol over the small population of tests.helpers.evaluation."""

from pathlib import Path

from evaluation.protocol.conditions import Protocol
from evaluation.protocol.numbers import Models
from tests.helpers.evaluation import population_config
from utils.config.evaluate import EvaluateConfig


def config(tmp_path: Path, **more) -> EvaluateConfig:
    """Return the configuration of an evaluation of that population; `more` replaces sections."""
    values = {
        "base": {"save_path": str(tmp_path / "out"), "device": "cpu", "seed": 1, "verbose": 0},
        "evaluation": {"fmr": 0.1, "bootstrap": 50, **more.pop("evaluation", {})},
        "datasets": {"toy": population_config(tmp_path).model_dump()},
        "recognition": {"net": {"weights": "w", "module": "m"}},
        "scores": {"q": {"weights": "w", "config": "c"}},
        **more,
    }
    return EvaluateConfig(**values)


def protocol(cfg: EvaluateConfig, tmp_path: Path, methods: dict, recognisers: dict) -> Protocol:
    """Return the protocol of a configuration with networks that are there already."""
    return Protocol(cfg, Models(methods, recognisers), tmp_path / "out")
