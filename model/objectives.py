"""Build the objective of a training method from its configuration."""

from collections.abc import Sequence

from model.ai_kd import AIKDObjective, FrozenTeacher, Objective
from model.build import build_student, pretrained_backbone
from model.cosface import CosFaceObjective
from model.cr_fiqa import CRFIQAObjective
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
        objective.select_on = cfg.base.select_on
        return objective
    _require_groups(cfg)
    if cfg.base.method == "crfiqa":
        return CRFIQAObjective(build_student(model_cfg, allow_modules, random_init), cfg.loss, contract)
    return CosFaceObjective(pretrained_backbone(model_cfg.features, allow_modules, random_init), cfg.loss, contract)


def _require_groups(cfg: TrainConfig) -> None:
    """Refuse a recognition recipe that leaves the class centres untrained."""
    if "margin" not in {group.params for group in cfg.optimizer.groups.values()}:
        raise ConfigError("optimizer: no group trains the margin head; add one with params: margin")
