"""CR-FIQA: the predicted certainty ratio (Boutros et al., CVPR 2023, arXiv 2112.06592)."""

from model.label_sources.student import Student


class CrFiqa(Student):
    """Take the output of the Linear (`qs`) on the embedding before normalisation; its network is a WrapperModel."""

    name = "cr_fiqa"
    range = "unbounded; mostly 0 to 1 with the paper's ratio, published weights reach above 2"
    needs = "CR-FIQA weights: backbone and qs"
