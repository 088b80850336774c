"""Recognition training with a margin head: how a teacher is made.

Source: Wang et al., CosFace, CVPR 2018. Shape suffixes: B batch, C classes, D embedding.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, cast

from torch import Tensor, nn
from torch.nn import functional

from model.embedding_dim import embedding_dim
from model.frozen.network import normalise
from model.margins import MarginHead
from model.objectives.base import Objective
from model.registry import NetworkBuilder, build_margin
from utils.config.sections import ModelConfig
from utils.config.train_recognition import CosFaceConfig, MarginLoss
from utils.contract import InputContract
from utils.errors import DataError
from utils.training.batches import RecognitionBatch

Judge = Callable[[Mapping[str, Tensor]], dict[str, float]]
"""Turns the embeddings (`embedding`, `row`) of the validation pairs' images into metrics, `accuracy` among them."""


class RecognitionTerms(NamedTuple):
    """Loss terms of recognition training."""

    recognition: Tensor
    """Mean cross-entropy of the hardened logits."""


class CosFaceObjective(Objective[RecognitionBatch]):
    """Classify the training identities; the margin head is thrown away, the backbone is what is saved."""

    terms = RecognitionTerms
    weights: tuple[float, ...] = (1.0,)
    margin: MarginHead

    def __init__(self, student: nn.Module, loss: MarginLoss, contract: InputContract):
        """Take the backbone to train; `attach` adds the margin head."""
        super().__init__(student, loss, contract)
        self.margin_spec = loss.recognition
        self.judge: Judge | None = None

    @classmethod
    def from_config(
        cls, cfg: CosFaceConfig, model_cfg: ModelConfig, builder: NetworkBuilder, contract: InputContract
    ) -> "CosFaceObjective":
        """Build the backbone."""
        student = builder.pretrained(model_cfg.features)
        return cls(student, cfg.loss, contract)

    @property
    def backbone(self) -> nn.Module:
        """Return the part of the student that gives embeddings."""
        return self.student

    def attach(self, data: Any) -> None:
        """Add the margin head. With pairs, validation measures verification, else the loss on held-out images."""
        if data.num_classes < 2:
            raise DataError(
                f"{data.num_classes} identity to train on, at least 2 are needed; put each one's images into its own "
                "folder"
            )
        self.judge = data.judge
        margin = build_margin(self.margin_spec, embedding_dim(self.backbone), data.num_classes)
        self.margin = cast(MarginHead, margin)
        self.notes = [f"{data.num_classes} identities, {type(self.margin).__name__} with scale "
                      f"{self.margin.scale:g} and margin {self.margin.margin:g}"]  # fmt: skip

    def parts(self) -> dict[str, nn.Module]:
        """Return backbone and margin head by their group names."""
        return {"feature_extractor": self.backbone, "margin": self.margin}

    def forward(self, batch: RecognitionBatch) -> Any:
        """Return the loss terms of one batch of uint8 crops and identities."""
        losses = self.losses(self.student, batch)
        return self.terms(*(losses[name].mean() for name in self.terms._fields))

    def losses(self, network: nn.Module, batch: RecognitionBatch) -> dict[str, Tensor]:
        """Return each term per sample (B,)."""
        embedding_BD = network(normalise(batch.images, self.contract))
        cosines_BC = self.margin.cosines(embedding_BD)
        return {"recognition": self.classification(cosines_BC, batch.identity)}

    def classification(self, cosines_BC: Tensor, identity_B: Tensor) -> Tensor:
        """Return the cross-entropy (B,) of the hardened logits."""
        return functional.cross_entropy(self.margin.logits(cosines_BC, identity_B), identity_B, reduction="none")

    def embed(self, network: nn.Module, batch: RecognitionBatch) -> Tensor:
        """Return embeddings (B, D) in float32."""
        return network(normalise(batch.images, self.contract)).float()

    def measure(self, network: nn.Module, batch: RecognitionBatch) -> dict[str, Tensor]:
        """Return embeddings of the pairs' images, or the loss terms of held-out images."""
        if self.judge is not None:
            return {"embedding": self.embed(network, batch), "row": batch.row}
        return self.losses(network, batch)

    def summarise(self, values: Mapping[str, Tensor]) -> dict[str, float]:
        """Return verification metrics, or mean losses; `selection` is 1 - accuracy, or the loss."""
        if self.judge is not None:
            metrics = self.judge(values)
            return {**metrics, "selection": 1 - metrics["accuracy"]}
        metrics = {name: values[name].double().mean().item() for name in self.terms._fields}
        total = sum(weight * metrics[name] for weight, name in zip(self.weights, self.terms._fields, strict=True))
        return {**metrics, "selection": total}
