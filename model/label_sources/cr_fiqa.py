"""CR-FIQA: the predicted certainty ratio (Boutros et al., CVPR 2023, arXiv 2112.06592)."""

from model.label_sources.student import Student
from utils.config.sections import ModuleSpec


class CrFiqa(Student):
    """Take the output of the Linear (`qs`) on the embedding before normalisation, whatever head AI-KD would train."""

    range = "unbounded; mostly 0 to 1 with the paper's ratio, published weights reach above 2"
    head = ModuleSpec(module="model.mlp.LinearHead")
