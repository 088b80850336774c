"""Every shipped YAML is read by the schema of its script, and none is forgotten here."""

import re
import shlex
from typing import get_origin

import pytest
import torch

from evaluate import without_effect
from jobs.experiment.config import PaperConfig
from jobs.experiment.seeds import SeedsConfig
from jobs.methods import load_training
from model.label_sources import label_schema
from tests.helpers.training import ROOT
from train_main import ignored
from utils.config import is_default, load_config
from utils.config.evaluate import EvaluateConfig
from utils.config.export import ExportConfig
from utils.config.inference import InferenceConfig
from utils.config.loading import read_yaml
from utils.config.prepare import PrepareConfig
from utils.config.refusals import models_of
from utils.config.sections import ModelConfig
from utils.config.train import DatasetConfig, TrainConfig
from utils.config.train_aikd import AIKDConfig
from utils.config.train_recognition import CosFaceConfig, CRFIQAConfig, RecognitionDataset
from utils.contract import InputContract
from utils.training.precision import Precision

SCHEMAS = {
    "train_config": AIKDConfig,
    "aikd_recommended": AIKDConfig,
    "diffiqar_config": AIKDConfig,
    "ediffiqa_config": AIKDConfig,
    "cosface_config": CosFaceConfig,
    "crfiqa_config": CRFIQAConfig,
    "inference_config": InferenceConfig,
    "label_config": label_schema(),
    "evaluate_config": EvaluateConfig,
    "prepare_config": PrepareConfig,
    "export_config": ExportConfig,
    "model_config": ModelConfig,
}
VARIANTS = ("aikd_recommended", "diffiqar_config", "ediffiqa_config", "cosface_config", "crfiqa_config")
SHOWN = [f"configs/{name}.yaml" for name in SCHEMAS if name not in VARIANTS]
SECTIONS = {
    "recipes": PaperConfig,
    "seeds": SeedsConfig,
    "features": ModelConfig,
    "optimizer": TrainConfig,
    "source": label_schema(),
    **dict.fromkeys(("synthetic", "degrade", "landmarks"), PrepareConfig),
}
SCRIPTS = {"train_main": TrainConfig, "inference": InferenceConfig, "label": label_schema(), "prepare": PrepareConfig}
DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
FILES = sorted((ROOT / "configs").rglob("*.yaml"))


def load(schema, path, overrides=()):
    return load_training(path, overrides) if issubclass(schema, TrainConfig) else load_config(schema, path, overrides)


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
    schema = schema_of(path)
    assert schema is not None, f"{path}: no schema known"
    cfg = load(schema, path)
    if schema is ModelConfig:
        assert InputContract.from_transform(cfg.transform) == InputContract()


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_nothing_in_a_shipped_yaml_is_without_effect(path):
    """Apart from what the official YAML names and a CPU does not use, which is said."""
    schema = schema_of(path)
    assert schema is not None, f"{path}: no schema known"
    if issubclass(schema, TrainConfig):
        cfg = load_training(path)
        lines = ignored(cfg, Precision(torch.device("cpu"), cfg.base, cfg.grad_scaler, 1))
        said = {
            "base.amp": cfg.base.amp and cfg.base.precision == "auto",
            "ema.params": path.stem == "train_config",
            "grad_scaler.params": True,
        }
        assert [line.partition(":")[0] for line in lines] == [key for key, there in said.items() if there]
    elif schema_of(path) is EvaluateConfig:
        assert without_effect(load_config(EvaluateConfig, path)) == []


NOT_SHOWN = {
    "train_config": ("optimizer.group_4",),
    "prepare_config": (
        *(f"dataset.{key}" for key in RecognitionDataset.model_fields if key not in DatasetConfig.model_fields),
        *("dataset.misalign", "dataset.perturbation", "dataset.val_percent", "dataset.identity"),
    ),
    "evaluate_config": ("scores.files",),
}


def keys_not_shown(schema, values, path=""):
    """Yield the dotted keys of a schema that `values` lacks, those of nested sections too."""
    for name, field in schema.model_fields.items():
        key, models = f"{path}{name}", list(models_of(field.annotation))
        if name not in (values or {}):
            yield key
        for model in models:
            inner = (values or {}).get(name) or {}
            if get_origin(field.annotation) is dict:  # NAME: section
                inner = {name: value for one in inner.values() for name, value in one.items()}
            yield from keys_not_shown(model, inner, f"{key}.")


@pytest.mark.parametrize("path", [*map(ROOT.joinpath, SHOWN)], ids=lambda path: path.stem)
def test_every_key_is_shown_with_its_meaning(path):
    """As a value, or in a comment, `key: value`."""
    comments = " ".join(line.partition("#")[2] for line in path.read_text().splitlines())
    hidden = NOT_SHOWN.get(path.stem, ())
    for key in keys_not_shown(SCHEMAS[path.stem], read_yaml(path)):
        name = key.rpartition(".")[2]
        assert key.startswith(hidden) or re.search(rf"\b{name}: ", comments) or name in ("module", "params"), key


def test_what_train_config_does_not_show_the_recognition_configurations_do():
    text = "".join((ROOT / f"configs/{name}.yaml").read_text() for name in ("cosface_config", "crfiqa_config"))
    shown = set(keys_not_shown(AIKDConfig, {}))
    own = [key for key in keys_not_shown(CRFIQAConfig, {}) if key not in shown]
    assert {"dataset.val_pairs", "loss.recognition", "loss.ratio"} <= set(own)
    for key in own:
        assert re.search(rf"[ {{]{key.rpartition('.')[2]}: ", text), key


@pytest.mark.parametrize(
    "key",
    ["base.log_every", "base.max_steps", "base.compile", "dataset.key_root", "dataset.exif", "dataset.max_pixels",
     "dataset.cache", "ema.decay", "scheduler.milestones", "scheduler.gamma"],
)  # fmt: skip
def test_what_the_released_recipe_does_not_name_is_shown_with_its_default(key):
    assert is_default(load_training(ROOT / "configs/train_config.yaml"), key)


def test_every_main_configuration_is_there():
    assert {f"{name}.yaml" for name in SCHEMAS} <= {path.name for path in FILES}


@pytest.mark.parametrize("name", ["train_config", *VARIANTS])
def test_training_configurations_name_a_model_that_is_there(name):
    cfg = load_training(ROOT / f"configs/{name}.yaml")
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
        cfg = load(SCRIPTS[script], ROOT / config, overrides)
        if config == "configs/label_config.yaml" and cfg.source.name == "ser_fiq":
            assert cfg.source.ser_fiq.dropout.rate, f"{overrides}: the shipped network has no dropout of its own"
