"""Label sources: existing face image quality methods, computed from a network at hand. AI-KD(X) for any X here."""

from collections.abc import Sequence

import torch
from torch import nn

from model.frozen.scoring import checked_contract
from model.label_sources.base import FrozenNetwork, LabelSource, PopulationSource
from model.label_sources.cr_fiqa import CrFiqa
from model.label_sources.faceqan import FaceQan
from model.label_sources.grafiqs import Grafiqs
from model.label_sources.magnitude import Magnitude
from model.label_sources.sdd_fiqa import SddFiqa
from model.label_sources.ser_fiq import SerFiq
from model.label_sources.student import Student
from model.registry import pretrained_backbone, trained_student
from utils.config.label import LabelConfig
from utils.config.sections import ModelConfig, ModuleSpec
from utils.contract import InputContract

__all__ = ["SOURCES", "FrozenNetwork", "LabelSource", "PopulationSource", "build_source"]

SOURCES: dict[str, type[LabelSource]] = {
    source.name: source for source in (SerFiq, FaceQan, CrFiqa, Magnitude, SddFiqa, Grafiqs, Student)
}


def build_source(
    cfg: LabelConfig, model: ModelConfig, device: torch.device, allow_modules: Sequence[str] = ()
) -> LabelSource:
    """Build the source `cfg.source.name` over the network of `model`, with weights loaded, on the device."""
    weight = cfg.model.weight or model.features.weights
    random_weights = InputContract.from_transform(model.transform), "the network has random weights: for trials only"
    contract, remark = checked_contract(model, weight) if weight else random_weights
    network = FrozenNetwork(_network(cfg, model, allow_modules), contract, device, cfg.source.rows_per_pass)
    network.remark = remark or ""
    name, seed = cfg.source.name, cfg.base.seed
    if name == "ser_fiq":
        return SerFiq(network, cfg.source.ser_fiq, seed)
    if name == "faceqan":
        return FaceQan(network, cfg.source.faceqan, seed)
    if name == "sdd_fiqa":
        return SddFiqa(network, cfg.source.sdd_fiqa, seed)
    if name == "grafiqs":
        return Grafiqs(network, cfg.source.grafiqs)
    return SOURCES[name](network)


def _network(cfg: LabelConfig, model: ModelConfig, allow_modules: Sequence[str]) -> nn.Module:
    weight = cfg.model.weight
    if cfg.source.name == "cr_fiqa":  # its head is one Linear, whatever head AI-KD would train
        model = model.model_copy(update={"head": ModuleSpec(module="model.mlp.LinearHead")})
    if cfg.source.name in ("cr_fiqa", "student"):
        return trained_student(model, weight, allow_modules)
    features = model.features if weight is None else model.features.model_copy(update={"weights": weight})
    return pretrained_backbone(features, allow_modules, cfg.base.allow_random_init)
