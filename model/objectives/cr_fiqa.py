"""CR-FIQA: learn recognition, and from its class centres how well each face can be classified.

Source: Boutros et al., CR-FIQA, CVPR 2023, arXiv 2112.06592. Shape suffixes: B batch, C classes, D embedding.
"""

from collections.abc import Mapping
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn

from model.ai_kd import WrapperModel
from model.frozen.network import normalise
from model.objectives.cosface import CosFaceObjective
from model.objectives.losses import build_loss
from model.registry import NetworkBuilder
from utils.config.sections import ModelConfig
from utils.config.train_recognition import CertaintyLoss, CRFIQAConfig
from utils.contract import InputContract
from utils.rank_correlation import spearman
from utils.training.batches import RecognitionBatch

Ratio = Literal["paper", "released"]
EPSILON = 1e-9
PREFIXES = {"feature_extractor.": "", "quality_head.": "qs."}


class CRFIQATerms(NamedTuple):
    """Loss terms of CR-FIQA."""

    recognition: Tensor
    """Mean ArcFace cross-entropy."""
    quality: Tensor
    """Mean regression loss between predicted quality and certainty ratio."""


class Certainty(NamedTuple):
    """How close each sample lies to its own class centre and to the nearest other one; no gradients."""

    ccs: Tensor
    """(B,) cosine to the own class centre."""
    nnccs: Tensor
    """(B,) largest cosine to another class centre."""

    def ratio(self, kind: Ratio) -> Tensor:
        """Return the certainty ratio (B,).

        paper: CCS / (NNCCS + 1 + eps), finite and with the sign of CCS for any cosines. released: CCS / NNCCS with
        NNCCS not below -1e-12, as the released code masks the own class; without other classes near, its magnitude
        reaches 1e12.
        """
        if kind == "paper":
            return self.ccs / ((self.nnccs + 1) + EPSILON)  # 1 + eps alone would be 1 in float32
        return self.ccs / self.nnccs.clamp_min(-1e-12)


def certainty(cosines_BC: Tensor, identity_B: Tensor) -> Certainty:
    """Read CCS and NNCCS off the cosines to all class centres, cut off from the graph."""
    cosines_BC = cosines_BC.detach().clamp(-1, 1)
    index = identity_B.view(-1, 1)
    others = cosines_BC.scatter(1, index, -torch.inf)
    return Certainty(cosines_BC.gather(1, index).squeeze(1), others.amax(1))


class CRFIQAObjective(CosFaceObjective):
    """Train backbone, class centres and a quality head that predicts the certainty ratio of each sample.

    The student is a WrapperModel whose head sees the embedding before normalisation; it is saved under the published
    names: the backbone's own keys beside `qs.weight` and `qs.bias`.
    """

    terms = CRFIQATerms
    weights = (1.0, 10.0)
    student: WrapperModel

    def __init__(self, student: WrapperModel, loss: CertaintyLoss, contract: InputContract):
        super().__init__(student, loss, contract)
        self.ratio: Ratio = loss.ratio
        if self.ratio == "released":  # its targets reach 1e12
            self.largest_loss = float("inf")
        self.quality_loss = build_loss(loss.quality, reduction="none")

    @classmethod
    def from_config(
        cls, cfg: CRFIQAConfig, model_cfg: ModelConfig, builder: NetworkBuilder, contract: InputContract
    ) -> "CRFIQAObjective":
        """Build backbone and quality head."""
        return cls(builder.student(model_cfg), cfg.loss, contract)

    @property
    def backbone(self) -> nn.Module:
        """Return the part of the student that gives embeddings."""
        return self.student.feature_extractor

    def parts(self) -> dict[str, nn.Module]:
        """Return backbone, quality head and margin head by their group names."""
        return {**super().parts(), "quality_head": self.student.quality_head}

    def published(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return a state_dict of the student under the names of the published CR-FIQA weights."""
        renamed = {}
        for key, tensor in state.items():
            own = next(prefix for prefix in PREFIXES if key.startswith(prefix))
            renamed[PREFIXES[own] + key.removeprefix(own)] = tensor
        return renamed

    def losses(self, network: nn.Module, batch: RecognitionBatch) -> dict[str, Tensor]:
        """Return each term per sample (B,), and the certainty ratio with its prediction."""
        embedding_BD, predicted_B = network(normalise(batch.images, self.contract))
        cosines_BC = self.margin.cosines(embedding_BD)
        ratio_B = certainty(cosines_BC, batch.identity).ratio(self.ratio)
        return {
            "recognition": self.classification(cosines_BC, batch.identity),
            "quality": self.quality_loss(predicted_B.float(), ratio_B),
            "ratio": ratio_B,
            "predicted": predicted_B.detach().float(),
        }

    def embed(self, network: nn.Module, batch: RecognitionBatch) -> Tensor:
        """Return embeddings (B, D) in float32."""
        return network(normalise(batch.images, self.contract))[0].float()

    def summarise(self, values: Mapping[str, Tensor]) -> dict[str, float]:
        """Return verification metrics, or mean losses with the rank correlation of prediction and ratio."""
        metrics = super().summarise(values)
        if self.judge is None:
            metrics["spearman"] = spearman(values["predicted"].cpu().numpy(), values["ratio"].cpu().numpy())
        return metrics
