"""AI-KD: the student with its quality head, the frozen teacher, and the objective that joins them.

Source: Babnik et al., AI-KD, arXiv 2404.09555. Shape suffixes: B batch, D embedding.
"""

import copy
import hashlib
from collections.abc import Callable, Mapping
from typing import NamedTuple, Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional

from model.embedding_dim import embedding_dim
from model.frozen.preprocess import normalise
from model.objectives.losses import build_loss
from model.objectives.refinement import LabelRefinement
from utils.config.train import LossConfig
from utils.contract import InputContract
from utils.errors import ConfigError
from utils.rank_correlation import spearman


class WrapperModel(nn.Module):
    """Predict embedding and quality of aligned crops; the state_dict has the official key names."""

    def __init__(self, feature_extractor: nn.Module, quality_head: nn.Module):
        super().__init__()
        self.feature_extractor = feature_extractor
        self.quality_head = quality_head

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Map normalised crops (B, 3, 112, 112) to embeddings (B, D) and qualities (B,), higher = better."""
        embedding_BD = self.feature_extractor(images)
        if isinstance(embedding_BD, tuple | list):
            embedding_BD = embedding_BD[0]
        return embedding_BD, self.quality_head(embedding_BD).flatten()


class FrozenTeacher(nn.Module):
    """Give reference embeddings. Owns its weights; no call can put it back into train mode."""

    def __init__(self, backbone: nn.Module):
        super().__init__()
        self.backbone = copy.deepcopy(backbone).requires_grad_(False)
        self.train(False)

    def train(self, mode: bool = True) -> "FrozenTeacher":
        """Stay in evaluation mode, whatever is asked."""
        return super().train(False)

    @torch.no_grad()
    def forward(self, images: Tensor) -> Tensor:
        """Map normalised crops (B, 3, 112, 112) to embeddings (B, D)."""
        embedding_BD = self.backbone(images)
        return embedding_BD[0] if isinstance(embedding_BD, tuple | list) else embedding_BD

    def fingerprint(self) -> str:
        """Return the SHA-256 of layers and weights: equal ones give equal embeddings."""
        digest = hashlib.sha256(repr(self.backbone).encode())
        for name, tensor in self.backbone.state_dict().items():
            digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
            digest.update(tensor.cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
        return digest.hexdigest()


class Objective(Protocol):
    """What the training loop needs of a method (AI-KD, CosFace, CR-FIQA).

    Calling it with a batch gives a NamedTuple of loss terms; their weighted sum is differentiated and the
    same names appear in the log. `student` is what is averaged, validated and saved; `parts` are what the
    optimiser's groups name; `terms` is the class of the loss terms, `weights` the default factor of each;
    `notes` are lines for the reader of the log.
    """

    student: nn.Module
    terms: type[NamedTuple]
    weights: tuple[float, ...]
    notes: list[str]

    def prepare(self, num_classes: int, judge: Callable | None) -> None:
        """Add what depends on the data: the margin head's classes, the judge of embeddings; AI-KD needs nothing."""

    def __call__(self, batch: NamedTuple) -> NamedTuple:
        """Return the named loss terms of a batch on the device."""

    def parts(self) -> Mapping[str, nn.Module]:
        """Return the trainable parts by their names in the configuration."""

    def kept(self) -> Mapping[str, nn.Module]:
        """Return what a resumed run needs beside the parts."""

    def published(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return a state_dict of the student under the names it is saved with."""

    def measure(self, network: nn.Module, batch: NamedTuple) -> Mapping[str, Tensor]:
        """Return per-sample values (B,) of one validation batch for `network`, a copy of the student."""

    def summarise(self, values: Mapping[str, Tensor]) -> dict[str, float]:
        """Turn the values of the whole validation set into metrics; `selection` is lower = better."""


class DistillationTerms(NamedTuple):
    """Loss terms of AI-KD."""

    consistency: Tensor
    """Mean of 1 - cos(student, teacher), in [0, 2]."""
    quality: Tensor
    """Mean regression loss between predicted quality and label."""


class AIKDObjective(nn.Module):
    """Distil the teacher's embedding of the aligned crop into the student's embedding of the misaligned one."""

    terms = DistillationTerms
    weights = (1.0, 1.0)

    def __init__(self, student: WrapperModel, teacher: FrozenTeacher, loss: LossConfig, contract: InputContract):
        super().__init__()
        self.student, self.teacher, self.contract = student, teacher, contract
        self.quality_loss = build_loss(loss.quality)
        if loss.consistency.module.rpartition(".")[2] != "CosineEmbeddingLoss":
            raise ConfigError(
                f"loss.consistency: {loss.consistency.module} is not AI-KD's; use torch.nn.CosineEmbeddingLoss"
            )
        self.consistency_loss = build_loss(loss.consistency)
        self.adapter: nn.Module | None = None
        self.refinement: LabelRefinement | None = None
        self.select_on = "mean"
        self.notes: list[str] = []

    def add_adapter(self, student_dim: int, teacher_dim: int) -> None:
        """Map the student's embeddings linearly to the teacher's dimension: for training only, not in the student."""
        self.adapter = nn.Linear(student_dim, teacher_dim, bias=False)
        nn.init.orthogonal_(self.adapter.weight)
        self.notes.append(f"an adapter, for training only, maps embeddings of {student_dim} numbers to {teacher_dim}")

    def prepare(self, num_classes: int, judge: Callable | None) -> None:
        """Do nothing: AI-KD has no classes."""

    def refine_labels(self, identity_N: Tensor, epsilon: float) -> None:
        """Train on refined labels, given the identity of each image of the index; see LabelRefinement."""
        self.refinement = LabelRefinement(identity_N, embedding_dim(self.teacher.backbone), epsilon)

    def published(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return the state_dict as it is: the official names."""
        return dict(state)

    def compile_networks(self) -> None:
        """Compile student and teacher in place; names in the state_dict stay."""
        self.student.compile()
        self.teacher.compile()

    def parts(self) -> dict[str, nn.Module]:
        """Return quality head and backbone by their official group names, and the adapter if there is one."""
        parts = {"quality_head": self.student.quality_head, "feature_extractor": self.student.feature_extractor}
        return parts if self.adapter is None else {**parts, "adapter": self.adapter}

    def kept(self) -> dict[str, nn.Module]:
        """Return the refinement of the labels, if there is one: it holds the centres."""
        return {} if self.refinement is None else {"refinement": self.refinement}

    def reference(self, batch: NamedTuple) -> Tensor:
        """Return the teacher's embeddings (B, D) of the aligned crops, without gradient; a cache may have them."""
        if batch.reference is not None:
            return batch.reference.float()
        return self.teacher(normalise(batch.aligned, self.contract)).float()

    def adapted(self, embedding_BD: Tensor) -> Tensor:
        """Return student embeddings as they are compared with the teacher's, in float32."""
        return (embedding_BD if self.adapter is None else self.adapter(embedding_BD)).float()

    def forward(self, batch: NamedTuple) -> DistillationTerms:
        """Return consistency and quality loss of one batch of uint8 crops and labels."""
        reference_BD = self.reference(batch)
        embedding_BD, quality_B = self.student(normalise(batch.misaligned, self.contract))
        adapted_BD, label_B = self.adapted(embedding_BD), batch.label
        if self.refinement is not None:
            label_B = self.refinement(label_B, adapted_BD, batch.row)
        return DistillationTerms(
            consistency=self.consistency_loss(adapted_BD, reference_BD, torch.ones_like(label_B)),
            quality=self.quality_loss(quality_B.float(), label_B),
        )

    def measure(self, network: nn.Module, batch: NamedTuple) -> dict[str, Tensor]:
        """Return per-sample consistency and quality on aligned and misaligned crops, beside the label as given."""
        reference_BD = self.reference(batch)
        values = {"label": batch.label}
        for kind in ("aligned", "misaligned"):
            embedding_BD, quality_B = network(normalise(getattr(batch, kind), self.contract))
            values[f"quality_{kind}"] = quality_B.float()
            values[f"consistency_{kind}"] = 1 - functional.cosine_similarity(self.adapted(embedding_BD), reference_BD)
        return values

    def summarise(self, values: dict[str, Tensor]) -> dict[str, float]:
        """Return mean losses and rank correlations with the label; `selection` follows base.select_on."""
        metrics = {}
        for kind in ("aligned", "misaligned"):
            quality_B = values[f"quality_{kind}"]
            metrics[f"consistency_{kind}"] = values[f"consistency_{kind}"].double().mean().item()
            metrics[f"quality_{kind}"] = self.quality_loss(quality_B.double(), values["label"].double()).item()
            metrics[f"spearman_{kind}"] = spearman(quality_B.cpu(), values["label"].cpu())
        metrics["quality_mean"] = (metrics["quality_aligned"] + metrics["quality_misaligned"]) / 2
        metrics["selection"] = metrics[f"quality_{self.select_on}"]
        return metrics
