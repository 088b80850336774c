"""train_config.yaml: AI-KD, the official keys and the new ones beside them."""

from typing import Annotated, ClassVar, Literal

from pydantic import AfterValidator, Field, NonNegativeFloat, PositiveFloat, PositiveInt, model_validator

from utils.config.loading import Flag, StrictModel, UserPath, is_default
from utils.config.sections import ModuleSpec, PerturbationConfig
from utils.config.train import DatasetConfig, Fraction, LossConfig, ModelRef, TrainBase, TrainConfig


def _rising(span: tuple[float, float]) -> tuple[float, float]:
    if span[0] > span[1]:
        raise ValueError(f"from {span[0]:g} to {span[1]:g}: write the smaller one first")
    return span


class AIKDBase(TrainBase):
    """The run."""

    select_on: Literal["misaligned", "aligned", "mean"] = "mean"
    """Crops whose validation quality loss selects the best weights."""


class MovedCropConfig(StrictModel):
    """How a whole crop is moved beside the aligned one; the defaults hold what boxes of detectors show."""

    turn_degrees: Annotated[float, Field(ge=0, le=180)] = 14.0
    """Half-width of the uniform turn about the face; boxes stand upright in their image whatever the face does."""
    scale: Annotated[tuple[PositiveFloat, PositiveFloat], AfterValidator(_rising)] = (0.88, 1.2)
    """Smallest and largest size of the face beside the aligned one; its logarithm is uniform."""
    right_px: Annotated[tuple[float, float], AfterValidator(_rising)] = (-14.0, 14.0)
    """Smallest and largest shift to the right, pixels of the 112x112 crop."""
    down_px: Annotated[tuple[float, float], AfterValidator(_rising)] = (-17.0, 9.0)
    """The same downwards."""


class StudentCropConfig(PerturbationConfig):
    """How the student's crop is misaligned."""

    family: Literal["landmarks", "similarity", "box", "mixed"] = "landmarks"
    """landmarks: each moved by its own draw (the paper). similarity: the aligned crop moved as a whole.
    box: an upright crop, as a detector's box gives. mixed: one of the three, drawn for each sample."""
    least_px: NonNegativeFloat | None = None
    """Draw p of each sample from least_px to radius_px; null: radius_px for all."""
    crop: MovedCropConfig = MovedCropConfig()
    """How far similarity and box move the crop; they do not read radius_px and unit."""

    @model_validator(mode="after")
    def _counts(self) -> "StudentCropConfig":
        if self.least_px is not None and self.least_px > self.radius_px:
            raise ValueError(f"least_px: {self.least_px:g} lies above radius_px ({self.radius_px:g})")
        if self.family == "landmarks" and not is_default(self, "crop"):
            raise ValueError("crop: moves nothing where landmarks are moved; name a family: similarity, box or mixed")
        if self.family in ("similarity", "box") and self.least_px is not None:
            raise ValueError("least_px: moves nothing where whole crops are moved; remove it")
        return self


class AIKDDataset(DatasetConfig):
    """The training images, their landmarks and labels, and how they are misaligned."""

    misalign: Flag = True
    """1: the student sees perturbed crops; 0: the aligned ones."""
    perturbation: StudentCropConfig = StudentCropConfig()
    """How the student's crop is misaligned."""


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
    crops: Literal["misaligned", "both"] = "misaligned"
    """Crops that the student is asked for: the misaligned one (the paper), or the aligned one too, in the same step;
    each term is then the mean over both. A step takes twice the time."""
    ranking: NonNegativeFloat = 0.0
    """Weight, within the quality term, of a pairwise ranking loss: mean over pairs of the batch with different labels
    of softplus(-(difference of their qualities, in the order of the labels) / ranking_scale)."""
    ranking_scale: PositiveFloat = 0.1
    """Difference of qualities at which the ranking loss begins to let go."""
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
        if not self.loss.ranking and not is_default(self.loss, "ranking_scale"):
            raise ValueError("loss.ranking_scale: without effect unless loss.ranking is above 0")
        if self.loss.crops == "both" and not self.dataset.misalign:
            raise ValueError("loss.crops: both needs dataset.misalign: 1; without it both crops are the same")
        return self
