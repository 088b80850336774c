"""Build the objective of a training method from its configuration."""

from collections.abc import Sequence

from model.ai_kd import AIKDObjective, FrozenTeacher, Objective
from model.build import build_student, pretrained_backbone
from utils.config.sections import ModelConfig
from utils.config.train import TrainConfig
from utils.contract import InputContract


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
    raise NotImplementedError(cfg.base.method)
