"""Label sources: existing face image quality methods, computed from a network at hand. AI-KD(X) for any X here.

Each has a file with its settings and its numbers; the table below says which name of `source.name` means which class.
"""

import importlib
from dataclasses import replace
from typing import Any, Literal

from pydantic import create_model, model_validator

from model.frozen.describe import Described
from model.frozen.load import NetworkLoader, NetworkSpec, OnnxSpec, TorchSpec
from model.frozen.network import TorchNetwork
from model.label_sources.base import LabelSource, PopulationSource
from utils.config.label import LabelConfig, SourceConfig
from utils.config.sections import ModelConfig
from utils.contract import InputContract
from utils.errors import ConfigError

__all__ = ["SOURCES", "LabelSource", "PopulationSource", "build_source", "label_schema", "source_class", "source_spec"]

SOURCES = {
    "ser_fiq": "model.label_sources.ser_fiq.SerFiq",
    "faceqan": "model.label_sources.faceqan.FaceQan",
    "cr_fiqa": "model.label_sources.cr_fiqa.CrFiqa",
    "magnitude": "model.label_sources.magnitude.Magnitude",
    "sdd_fiqa": "model.label_sources.sdd_fiqa.SddFiqa",
    "grafiqs": "model.label_sources.grafiqs.Grafiqs",
    "student": "model.label_sources.student.Student",
    "module": "model.label_sources.module.Module",
}
"""A new source takes a file of its own and a line here; the first one is the default."""


def source_class(name: str) -> type[LabelSource]:
    """Import the class of a listed source."""
    module, _, attribute = SOURCES[name].rpartition(".")
    return getattr(importlib.import_module(module), attribute)


def label_schema() -> type[LabelConfig]:
    """Return the schema of label_config.yaml: `source` has the section of each listed source that has settings."""
    fields: dict[str, Any] = {"name": (Literal[tuple(SOURCES)], next(iter(SOURCES)))}
    for name in SOURCES:
        if (section := source_class(name).config) is not None:
            fields[name] = (section, section())
    source = create_model("SourceConfig", __base__=SourceConfig, **fields)
    more: dict[str, Any] = {"__validators__": {"weight": model_validator(mode="after")(_has_weight)}}
    return create_model("LabelConfig", __base__=LabelConfig, source=(source, source.model_validate({})), **more)


def build_source(cfg: LabelConfig, model: ModelConfig | None, loader: NetworkLoader) -> LabelSource:
    """Build the source `cfg.source.name` over its network, with weights loaded, on the device.

    `model` is what model.config names; None where the file of the weights says enough.
    """
    source, network = source_class(cfg.source.name), loader.load(source_spec(cfg, model))
    if source.looks_inside and not isinstance(network, TorchNetwork):
        raise ConfigError(
            f"source.name: {cfg.source.name} needs layers and gradients, an ONNX file has none; name other weights"
        )
    return source(network, cfg.source.settings, cfg.base.seed, cfg.source.rows_per_pass)


def source_spec(cfg: LabelConfig, model: ModelConfig | None) -> NetworkSpec:
    """Describe the network behind the labels; its contract is checked, see checked_contract."""
    source = source_class(cfg.source.name)
    if source.head is not None and model is not None:
        model = model.model_copy(update={"head": source.head})
    weight = cfg.model.weight or (model.features.weights if model is not None else None)
    if weight is not None:
        described = Described(weight, cfg.model, model)
        if source.trained:
            spec = described.scorer()
            return spec if isinstance(spec, OnnxSpec) else replace(spec, folded=False)
        spec = described.network()
    elif model is None:
        raise ConfigError("model.config: names no network, and model.weight no file; name one of them")
    else:
        contract = replace(InputContract.from_transform(model.transform, model.channels), **cfg.model.fed)
        remark = "" if source.own_weights else "the network has random weights: for trials only"
        random_init = cfg.base.allow_random_init or source.own_weights
        spec = TorchSpec(model, None, contract, random_init=random_init, remark=remark)
    return replace(spec, reading=replace(spec.reading, quality=source.quality)) if source.quality else spec


def _has_weight(cfg: LabelConfig) -> LabelConfig:
    if source_class(cfg.source.name).trained and cfg.model.weight is None:
        raise ValueError(f"model.weight is needed by source {cfg.source.name}; name its weights file")
    return cfg
