"""Build the objective of a training method from its configuration."""

from collections.abc import Sequence

from model.ai_kd import AIKDObjective, FrozenTeacher, Objective
from model.embedding_dim import embedding_dim
from model.objectives.cosface import CosFaceObjective
from model.objectives.cr_fiqa import CRFIQAObjective
from model.registry import build_student, pretrained_backbone
from utils.config.sections import ModelConfig
from utils.config.train import TrainConfig
from utils.contract import InputContract
from utils.errors import ConfigError


def build_objective(
    cfg: TrainConfig, model_cfg: ModelConfig, allow_modules: Sequence[str], contract: InputContract
) -> Objective:
    """Build networks, weights and loss terms of `base.method`, on the CPU."""
    random_init = cfg.base.allow_random_init
    if cfg.base.method == "aikd":
        student = build_student(model_cfg, allow_modules, random_init)
        teacher = student.feature_extractor
        if model_cfg.teacher is not None:
            teacher = pretrained_backbone(model_cfg.teacher, allow_modules, random_init)
        objective = AIKDObjective(student, FrozenTeacher(teacher), cfg.loss, contract)
        _fit_dimensions(objective, cfg)
        objective.select_on = cfg.base.select_on
        return objective
    _require_groups(cfg)
    if cfg.base.method == "crfiqa":
        return CRFIQAObjective(build_student(model_cfg, allow_modules, random_init), cfg.loss, contract)
    return CosFaceObjective(pretrained_backbone(model_cfg.features, allow_modules, random_init), cfg.loss, contract)


def _fit_dimensions(objective: AIKDObjective, cfg: TrainConfig) -> None:
    """Add the adapter an optimiser group asks for; without one, both networks must embed in one dimension."""
    dims = [embedding_dim(network) for network in (objective.student.feature_extractor, objective.teacher.backbone)]
    if "adapter" in {group.params for group in cfg.optimizer.groups.values()}:
        objective.add_adapter(*dims)
    elif dims[0] != dims[1]:
        raise ConfigError(
            f"optimizer: the student embeds in {dims[0]} dimensions, the teacher in {dims[1]}; add a group that trains "
            "an adapter between them, e.g. group_3: {params: adapter, lr: 0.05, weight_decay: 0.0005, momentum: 0.9}"
        )


def _require_groups(cfg: TrainConfig) -> None:
    """Refuse a recognition recipe that leaves the class centres untrained."""
    if "margin" not in {group.params for group in cfg.optimizer.groups.values()}:
        raise ConfigError("optimizer: no group trains the margin head; add one with params: margin")
