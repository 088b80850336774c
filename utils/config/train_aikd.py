"""train_config.yaml: AI-KD, the official keys and the new ones beside them."""

from typing import Annotated, ClassVar, Literal

from pydantic import Field, NonNegativeFloat, PositiveInt, model_validator

from utils.config.loading import Flag, StrictModel, UserPath
from utils.config.sections import ModuleSpec, PerturbationConfig
from utils.config.train import DatasetConfig, Fraction, LossConfig, ModelRef, TrainBase, TrainConfig


class AIKDBase(TrainBase):
    """The run."""

    select_on: Literal["misaligned", "aligned", "mean"] = "mean"
    """Crops whose validation quality loss selects the best weights."""


class AIKDDataset(DatasetConfig):
    """The training images, their landmarks and labels, and how they are misaligned."""

    misalign: Flag = True
    """1: the student sees perturbed crops; 0: the aligned ones."""
    perturbation: PerturbationConfig = PerturbationConfig()
    """Landmark noise of the misaligned crop."""


class AIKDModel(ModelRef):
    """Where the networks and the teacher's embeddings are."""

    teacher_cache: UserPath | None = None
    """Folder in which the teacher's embeddings are kept, for every run on the same images; null: none."""
    fold_teacher: Flag = False
    """1: the teacher's BatchNorms become part of its convolutions: the same function up to rounding, less memory
    traffic. Its embeddings are kept apart from those of the unfolded teacher."""


class RefinementConfig(StrictModel):
    """Label refinement of eDifFIQA, a variant of AI-KD: `loss.refinement: {}` switches it on."""

    theta: Fraction = 0.5
    """theta * consistency + (1 - theta) * quality; multiplies loss.weights."""
    epsilon: NonNegativeFloat = 0.5
    """Refined label: label - epsilon * (1 - cos(student's embedding, centre of the identity)), kept in [0, 1]."""
    top: Annotated[float, Field(gt=0, le=1)] = 0.2
    """Share of all images, those with the highest labels, whose embeddings make the centres of their identities."""
    min_images: PositiveInt = 10
    """Images of identities with fewer of these are left out of training."""

    @property
    def shares(self) -> tuple[float, float]:
        """Return the shares of consistency and quality."""
        return self.theta, 1 - self.theta


class AIKDLoss(LossConfig):
    """The loss terms: consistency and quality."""

    quality: ModuleSpec = ModuleSpec(module="torch.nn.SmoothL1Loss", params={"beta": 0.5})
    """Quality regression; torch.nn.L1Loss is the paper's symbol."""
    consistency: ModuleSpec = ModuleSpec(module="torch.nn.CosineEmbeddingLoss")
    """1 - cos(student, teacher)."""
    refinement: RefinementConfig | None = None
    """Refine the labels by the centres of the identities (eDifFIQA); null: train on the labels as given."""


class AIKDConfig(TrainConfig):
    """The whole of train_config.yaml."""

    PARTS: ClassVar = {"quality_head": True, "feature_extractor": False, "adapter": False}

    base: AIKDBase
    dataset: AIKDDataset
    model: AIKDModel
    loss: AIKDLoss = AIKDLoss()

    @model_validator(mode="after")
    def _complete(self) -> "AIKDConfig":
        for key in ("quality_location", "landms_location"):
            if getattr(self.dataset, key) is None:
                raise ValueError(f"dataset.{key} is needed by method {self.base.method}; name the file")
        return self
