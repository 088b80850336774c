"""Every shipped YAML is read by the schema of its script, and none is forgotten here."""

import re
import shlex

import pytest
import torch

from evaluate import without_effect
from tests.helpers_training import ROOT
from train_main import ignored
from utils.config import load_config
from utils.config.evaluate import EvaluateConfig
from utils.config.inference import InferenceConfig
from utils.config.label import LabelConfig
from utils.config.loading import read_yaml
from utils.config.prepare import PrepareConfig
from utils.config.sections import ModelConfig
from utils.config.train import TrainConfig
from utils.contract import InputContract
from utils.precision import Precision

SCHEMAS = {
    "train_config": TrainConfig,
    "cosface_config": TrainConfig,
    "crfiqa_config": TrainConfig,
    "inference_config": InferenceConfig,
    "label_config": LabelConfig,
    "evaluate_config": EvaluateConfig,
    "prepare_config": PrepareConfig,
}
SECTIONS = {"features": ModelConfig, "optimizer": TrainConfig, "source": LabelConfig, "synthetic": PrepareConfig}
SCRIPTS = {"train_main": TrainConfig, "inference": InferenceConfig, "label": LabelConfig, "prepare": PrepareConfig}
DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
FILES = sorted((ROOT / "configs").rglob("*.yaml"))


def schema_of(path):
    if path.stem in SCHEMAS:
        return SCHEMAS[path.stem]
    values = read_yaml(path)
    for section, schema in {**SECTIONS, "datasets": EvaluateConfig, "dataset": InferenceConfig}.items():
        if section in values:
            return schema
    return None


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_shipped_yaml_loads(path):
    if path.stem == "export_config":
        from utils.config.export import ExportConfig as schema
    else:
        schema = schema_of(path)
    assert schema is not None, f"{path}: no schema known"
    cfg = load_config(schema, path)
    if schema is ModelConfig:
        assert InputContract.from_transform(cfg.transform) == InputContract()


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_nothing_in_a_shipped_yaml_is_without_effect(path):
    """Apart from what the official YAML names and a CPU does not use, which is said."""
    if schema_of(path) is TrainConfig:
        cfg = load_config(TrainConfig, path)
        lines = ignored(cfg, Precision(torch.device("cpu"), cfg.base, cfg.grad_scaler, 1))
        said = {"base.amp": cfg.base.amp, "ema.params": path.stem == "train_config", "grad_scaler.params": True}
        assert [line.partition(":")[0] for line in lines] == [key for key, there in said.items() if there]
    elif schema_of(path) is EvaluateConfig:
        assert without_effect(load_config(EvaluateConfig, path)) == []


def test_every_main_configuration_is_there():
    assert {f"{name}.yaml" for name in SCHEMAS} <= {path.name for path in FILES}


@pytest.mark.parametrize("name", ["train_config", "cosface_config", "crfiqa_config"])
def test_training_configurations_name_a_model_that_is_there(name):
    cfg = load_config(TrainConfig, ROOT / f"configs/{name}.yaml")
    load_config(ModelConfig, ROOT / cfg.model.config)


def documented_commands():
    """Yield (script, arguments) of each command on a shipped configuration in README and docs."""
    for document in DOCUMENTS:
        text = document.read_text(encoding="utf-8").replace("\\\n", " ")
        for script, arguments in re.findall(
            r"^(?:python|torchrun) .*?(\w+)\.py +-c +(configs/.*)$", text, re.MULTILINE
        ):
            if script in SCRIPTS:
                yield script, shlex.split(arguments, comments=True)


def test_documented_commands_fit_their_configurations():
    commands = list(documented_commands())
    assert {script for script, _ in commands} == set(SCRIPTS)
    for script, (config, *overrides) in commands:
        overrides = overrides[: overrides.index("--allow-module")] if "--allow-module" in overrides else overrides
        cfg = load_config(SCRIPTS[script], ROOT / config, overrides)
        if config == "configs/label_config.yaml" and cfg.source.name == "ser_fiq":
            assert cfg.source.ser_fiq.dropout.rate, f"{overrides}: the shipped network has no dropout of its own"
