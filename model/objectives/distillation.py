"""AI-KD: distil the teacher's embedding of the aligned face into a student that sees a misaligned one.

Source: Babnik et al., AI-KD, arXiv 2404.09555. Shape suffixes: B batch, D embedding.
"""

import logging
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from model.ai_kd import FrozenTeacher, WrapperModel
from model.embedding_dim import embedding_dim
from model.frozen.fold import fold_batchnorm
from model.frozen.network import normalise
from model.objectives.base import Objective, StartingRun
from model.objectives.losses import PairwiseRankingLoss, build_loss
from model.objectives.refinement import CentreSums, LabelRefinement
from model.registry import NetworkBuilder
from utils import distributed
from utils.config.sections import ModelConfig
from utils.config.train import OptimizerConfig
from utils.config.train_aikd import AIKDConfig, AIKDLoss
from utils.contract import InputContract
from utils.errors import ConfigError
from utils.progress import progress
from utils.rank_correlation import spearman
from utils.training.batches import DistillationBatch
from utils.training.precision import to_device

logger = logging.getLogger(__name__)


class DistillationTerms(NamedTuple):
    """Loss terms of AI-KD."""

    consistency: Tensor
    """Mean of 1 - cos(student, teacher), in [0, 2]."""
    quality: Tensor
    """Mean regression loss between predicted quality and label."""


class AIKDObjective(Objective[DistillationBatch]):
    """Distil the teacher's embedding of the aligned crop into the student's embedding of the misaligned one."""

    terms = DistillationTerms
    weights = (1.0, 1.0)
    student: WrapperModel

    def __init__(self, student: WrapperModel, teacher: FrozenTeacher, loss: AIKDLoss, contract: InputContract):
        super().__init__(student, loss, contract)
        self.teacher = teacher
        self.quality_loss = build_loss(loss.quality)
        if loss.consistency.module.rpartition(".")[2] != "CosineEmbeddingLoss":
            raise ConfigError(
                f"loss.consistency: {loss.consistency.module} is not AI-KD's; use torch.nn.CosineEmbeddingLoss"
            )
        self.consistency_loss = build_loss(loss.consistency)
        self.ranking_loss = PairwiseRankingLoss(loss.ranking_scale) if loss.ranking else None
        self.ranking, self.both = loss.ranking, loss.crops == "both"
        self.adapter: nn.Module | None = None
        self.refinement: LabelRefinement | None = None
        self.epsilon = 0.0
        if loss.refinement is not None:
            self.epsilon = loss.refinement.epsilon
            shares = zip(self.factors, loss.refinement.shares, strict=True)
            self.factors = tuple(factor * share for factor, share in shares)
        self.select_on = "mean"

    @classmethod
    def from_config(
        cls, cfg: AIKDConfig, model_cfg: ModelConfig, builder: NetworkBuilder, contract: InputContract
    ) -> "AIKDObjective":
        """Build student and teacher; without a network of its own the teacher is a copy of the student's backbone."""
        student = builder.student(model_cfg)
        teacher = student.feature_extractor
        if model_cfg.teacher is not None:
            teacher = builder.pretrained(model_cfg.teacher)
        if cfg.model.fold_teacher:
            teacher = fold_batchnorm(teacher)
        objective = cls(student, FrozenTeacher(teacher), cfg.loss, contract)
        objective.fit_dimensions(cfg.optimizer)
        objective.select_on = cfg.base.select_on
        return objective

    def fit_dimensions(self, optimizer: OptimizerConfig) -> None:
        """Add the adapter an optimiser group asks for; without one, both networks must embed in one dimension.

        It maps the student's embeddings linearly to the teacher's dimension, for training only.
        """
        own, wanted = (embedding_dim(network) for network in (self.student.feature_extractor, self.teacher.backbone))
        if "adapter" in {group.params for group in optimizer.groups.values()}:
            self.adapter = nn.Linear(own, wanted, bias=False)
            nn.init.orthogonal_(self.adapter.weight)
            self.notes.append(f"an adapter, for training only, maps embeddings of {own} numbers to {wanted}")
        elif own != wanted:
            raise ConfigError(
                f"optimizer: the student embeds in {own} dimensions, the teacher in {wanted}; add a group that trains "
                "an adapter between them, e.g. group_3: {params: adapter, lr: 0.05, weight_decay: 0.0005, "
                "momentum: 0.9}"
            )

    def attach(self, data: Any) -> None:
        """Train on refined labels where the data name the images that make the centres; see LabelRefinement."""
        if data.centres is not None:
            identity_N = torch.from_numpy(data.centres.identity)
            self.refinement = LabelRefinement(identity_N, embedding_dim(self.teacher.backbone), self.epsilon)

    @torch.no_grad()
    def before_first_step(self, run: StartingRun) -> None:
        """Let the teacher embed what its cache lacks, and the images that make the centres unless these are known."""
        data = run.data
        if data.cache is not None:
            facts = {"weights": self.teacher.fingerprint(), "input": run.contract.to_dict()}
            data.cache.open({**facts, "precision": run.precision.name}, embedding_dim(self.teacher.backbone))
            rows = data.cache.missing()
            logger.info(f"teacher cache {data.cache.path}: {len(rows)} of {len(data.cache.index)} images to embed")
            batches = data.cache.batches(rows, run.cfg.dataloader.val.params)
            for batch, reference_BD in self._embedded(run, batches, len(rows), "teacher"):
                data.cache.put(batch, reference_BD)
            distributed.barrier()
        if self.refinement is not None and not self.refinement.complete:
            sums = CentreSums(self.refinement)
            for batch, reference_BD in self._embedded(run, data.centre_loader, len(data.centres.rows), "centres"):
                if reference_BD is not None:
                    sums.add(reference_BD, batch.row)
            self.refinement.set_centres(*distributed.summed(sums.sum_CD, sums.images_C))

    def _embedded(
        self, run: StartingRun, batches: Iterable[DistillationBatch], count: int, what: str
    ) -> Iterator[tuple[DistillationBatch, Tensor | None]]:
        """Yield each batch with the teacher's embeddings of its aligned crops, None for a batch without any."""
        with progress(total=count, desc=what, unit="img", disable=not run.talks) as bar:
            for batch in batches:
                reference_BD = None
                if len(batch.row):
                    with run.precision.autocast():
                        reference_BD = self.reference(to_device(batch, run.precision.device))
                yield batch, reference_BD
                bar.update(len(batch.row) * distributed.world_size())

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

    def reference(self, batch: DistillationBatch) -> Tensor:
        """Return the teacher's embeddings (B, D) of the aligned crops, without gradient; a cache may have them."""
        if batch.reference is not None:
            return batch.reference.float()
        return self.teacher(normalise(batch.aligned, self.contract)).float()

    def adapted(self, embedding_BD: Tensor) -> Tensor:
        """Return student embeddings as they are compared with the teacher's, in float32."""
        return (embedding_BD if self.adapter is None else self.adapter(embedding_BD)).float()

    def forward(self, batch: DistillationBatch) -> DistillationTerms:
        """Return consistency and quality loss of one batch of uint8 crops and labels."""
        reference_BD, label_B, crops = self.reference(batch), batch.label, batch.misaligned
        if self.both:
            crops = torch.cat((batch.aligned, crops))
            reference_BD, label_B = (torch.cat((one, one)) for one in (reference_BD, label_B))
        embedding_BD, quality_B = self.student(normalise(crops, self.contract))
        adapted_BD = self.adapted(embedding_BD)
        if self.refinement is not None:
            row_B = torch.cat((batch.row, batch.row)) if self.both else batch.row
            label_B = self.refinement(label_B, adapted_BD, row_B)
        quality = self.quality_loss(quality_B.float(), label_B)
        if self.ranking_loss is not None:
            quality = quality + self.ranking * self.ranking_loss(quality_B.float(), label_B)
        consistency = self.consistency_loss(adapted_BD, reference_BD, torch.ones_like(label_B))
        return DistillationTerms(consistency, quality)

    def measure(self, network: nn.Module, batch: DistillationBatch) -> dict[str, Tensor]:
        """Return per-sample consistency and quality on aligned and misaligned crops, beside the label as given."""
        reference_BD = self.reference(batch)
        values = {"label": batch.label}
        for kind in ("aligned", "misaligned"):
            embedding_BD, quality_B = network(normalise(getattr(batch, kind), self.contract))
            values[f"quality_{kind}"] = quality_B.float()
            values[f"consistency_{kind}"] = 1 - functional.cosine_similarity(self.adapted(embedding_BD), reference_BD)
        return values

    def summarise(self, values: Mapping[str, Tensor]) -> dict[str, float]:
        """Return mean losses and rank correlations with the label; `selection` follows base.select_on."""
        metrics = {}
        for kind in ("aligned", "misaligned"):
            quality_B = values[f"quality_{kind}"]
            metrics[f"consistency_{kind}"] = values[f"consistency_{kind}"].double().mean().item()
            metrics[f"quality_{kind}"] = self.quality_loss(quality_B.double(), values["label"].double()).item()
            metrics[f"spearman_{kind}"] = spearman(quality_B.cpu().numpy(), values["label"].cpu().numpy())
        metrics["quality_mean"] = (metrics["quality_aligned"] + metrics["quality_misaligned"]) / 2
        metrics["selection"] = metrics[f"quality_{self.select_on}"]
        return metrics
