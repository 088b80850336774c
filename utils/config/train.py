"""What the training configurations of all methods have in common; the rest is in one file for each kind of method."""

import math
from typing import Annotated, Any, ClassVar, Literal

from pydantic import (
    BeforeValidator,
    ConfigDict,
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    model_validator,
)

from utils.config.loading import Flag, StrictModel, UserPath, is_default
from utils.config.sections import DeviceName, ImageInputConfig, LoaderConfig, LoaderParams, ScoreForm

Fraction = Annotated[float, Field(ge=0, le=1)]


def _resume(value: Any) -> Any:
    return "auto" if value == "auto" else 0 if value in (0, False, "0") else value


class TrainBase(StrictModel):
    """The run."""

    method: str = "aikd"
    """What is trained: a method of jobs/methods.py. It decides which other keys there are."""
    epochs: PositiveInt = 1
    """Passes over the training images."""
    verbose: Flag = True
    """1: progress bar and report; 0: errors only."""
    save_path: UserPath
    """Folder for weights, metrics and the resume file."""
    seed: NonNegativeInt = 42069
    """Seed of initialisation, order and perturbations."""
    device: DeviceName = "cuda:0"
    """cpu, cuda or cuda:N."""
    amp: Flag = True
    """1: mixed precision on CUDA (bf16 where the device has it, else fp16 with loss scaling)."""
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    """auto: as `amp` says; fp32: none; bf16: mixed precision on any device, a CPU too; fp16: with loss scaling, as
    released, on CUDA only."""
    validate_every: Annotated[float, Field(gt=0, le=1)] = 0.1
    """Fraction of an epoch between validations."""
    pretrain: Fraction = 0.3
    """Fraction of the run before the first validation."""
    warmup: Fraction = 0.5
    """Fraction of `pretrain` during which the learning rate rises."""
    resume: Annotated[Literal[0, "auto"], BeforeValidator(_resume)] = 0
    """0: start anew; auto: go on from save_path/resume.pt when it is there."""
    save_every: PositiveInt = 500
    """Steps between writes of resume.pt."""
    log_every: PositiveInt = 10
    """Steps between lines of metrics.jsonl."""
    max_steps: PositiveInt | None = None
    """Stop after this many steps; the schedule stays as planned for `epochs`."""
    allow_random_init: Flag = False
    """1: a backbone with `weights: null` starts from random weights."""
    compile: Flag = False
    """1: torch.compile the networks."""


class ImagesConfig(ImageInputConfig):
    """The training images and their landmarks."""

    image_location: UserPath
    """Folder of the images, list of paths, .tar, .zip, .rec, .bin, .parquet, or several: part-{000..099}.tar."""
    landms_location: UserPath | None = None
    """Landmark file, or `template` when the images are already aligned 112x112 crops."""
    val_percent: Annotated[float, Field(ge=0, lt=1)] = 0.01
    """Share of the images held out for validation, evenly over the sorted labels or identities."""
    key_root: str | None = None
    """Prefix to strip from the names in label and landmark files; null: found automatically."""
    on_missing: Literal["error", "skip"] = "error"
    """Images without label or landmarks, or unreadable: stop, or leave them out and say so."""
    identity: str = "parent"
    """Who is on an image: parent (the folder), top (the first folder), a table
    NAME,IDENTITY (.csv, .tsv), or a regular expression whose first group in the name is the identity."""
    cache: UserPath | None = None
    """Folder for the checked index, reused while the inputs are unchanged; null: none."""


class DatasetConfig(ImagesConfig, ScoreForm):
    """The training images with their quality labels."""

    quality_location: UserPath | None = None
    """Quality labels, any format of README, "Labels"."""
    label_scaling: Literal["minmax", "rank", "none"] = "minmax"
    """Map the labels to [0, 1] by their extremes or ranks, or leave them."""
    higher_is_better: Flag = True
    """0: the label file counts downwards; labels are negated first."""


class TrainLoaders(StrictModel):
    """The two loaders."""

    train: LoaderConfig = LoaderConfig(params=LoaderParams(shuffle=True, num_workers=10, pin_memory=True))
    """Training batches."""
    val: LoaderConfig = LoaderConfig()
    """Validation batches."""


class ModelRef(StrictModel):
    """Where the model configuration is."""

    config: UserPath
    """Path of model_config.yaml, from the working directory or beside this file."""


class EmaConfig(StrictModel):
    """The weight average that is validated and saved."""

    module: Literal["torch.optim.swa_utils.SWALR"] = "torch.optim.swa_utils.SWALR"
    """Official name; means the average below (SWALR itself is a learning-rate schedule)."""
    params: dict[str, Any] = Field(default_factory=dict)
    """Accepted, without effect."""
    ema_alpha: Fraction = 0.1
    """avg = ema_alpha * avg + (1 - ema_alpha) * new, at every validation."""
    every: Literal["validation", "step"] = "validation"
    """When the average is updated: as released, or at every step with `decay`."""
    decay: Fraction = 0.999
    """avg = decay * avg + (1 - decay) * new, with every: step."""

    @property
    def alpha(self) -> float:
        """Return the weight of the old average at one update."""
        return self.ema_alpha if self.every == "validation" else self.decay


class SchedulerConfig(StrictModel):
    """The learning-rate schedule."""

    module: Literal["torch.optim.lr_scheduler.LambdaLR", "torch.optim.lr_scheduler.MultiStepLR"] = (
        "torch.optim.lr_scheduler.LambdaLR"
    )
    """LambdaLR: the released warm-up, then constant. MultiStepLR: warm-up, then drops."""
    milestones: list[NonNegativeFloat] = Field(default_factory=list)
    """Epochs at which the rate is multiplied by gamma (MultiStepLR)."""
    gamma: PositiveFloat = 0.1
    """Factor of one drop."""

    @model_validator(mode="after")
    def _drops_are_of_multi_step(self) -> "SchedulerConfig":
        if self.module.endswith("LambdaLR") and not (is_default(self, "milestones") and is_default(self, "gamma")):
            raise ValueError(
                "milestones and gamma need module: torch.optim.lr_scheduler.MultiStepLR; name it or remove them"
            )
        return self


class ScalerConfig(StrictModel):
    """Loss scaling, used only where fp16 is."""

    module: Literal["torch.cuda.amp.GradScaler"] = "torch.cuda.amp.GradScaler"
    """Official name."""
    params: dict[str, float] = Field(default_factory=lambda: {"init_scale": 128.0})
    """Arguments of torch.amp.GradScaler; growth_interval defaults to the end of `pretrain`."""


class GroupConfig(StrictModel):
    """One optimiser group; further keys are arguments of the optimiser (weight_decay, momentum, ...)."""

    model_config = ConfigDict(frozen=True, extra="allow")

    params: str
    """Part of the model: quality_head, feature_extractor, or another that the method has."""
    lr: NonNegativeFloat
    """Learning rate."""
    limit: PositiveInt | None = None
    """Train only the last `limit` parameter tensors of the part; null: all."""
    clip: Flag = True
    """0: leave this group out of the gradient norm."""

    @model_validator(mode="after")
    def _numbers_are_finite(self) -> "GroupConfig":
        for key, value in (self.model_extra or {}).items():
            if isinstance(value, float) and not math.isfinite(value):
                raise ValueError(f"{key} should be a finite number")
        return self


class OptimizerConfig(StrictModel):
    """The optimiser and its groups."""

    module: str = "torch.optim.SGD"
    """A class of torch.optim."""
    group_1: GroupConfig | None = None
    """First group."""
    group_2: GroupConfig | None = None
    """Second group."""
    group_3: GroupConfig | None = None
    """Third group."""
    group_4: GroupConfig | None = None
    """Fourth group."""
    freeze_bn: Annotated[Literal[0, 1, "all"], BeforeValidator(lambda v: int(v) if v in (0, 1) else v)] = 1
    """1: a BatchNorm uses batch statistics only if all of it is in the optimiser; 0: every one; all: none."""
    max_grad_norm: PositiveFloat | None = 5.0
    """Global norm to which gradients are clipped; null: not."""
    fused: Flag = False
    """1: one kernel updates many tensors, where the optimiser has one; the same numbers up to rounding."""

    @property
    def groups(self) -> dict[str, GroupConfig]:
        """Return the groups that are given."""
        named = {name: getattr(self, name) for name in ("group_1", "group_2", "group_3", "group_4")}
        return {name: group for name, group in named.items() if group is not None}


class LossConfig(StrictModel):
    """The loss terms."""

    weights: list[NonNegativeFloat] | None = None
    """Factor of each term in the order they are logged; null: the method's own."""


class WandbConfig(StrictModel):
    """Weights & Biases; imported only when used."""

    use: Flag = False
    """1: log there too."""
    project: str = "ai-kd"
    """Project name."""


class TrainConfig(StrictModel):
    """The sections of every training configuration; a method adds its keys to them."""

    RECORDS: ClassVar = ("model_config", "inputs")
    """What a run adds to its config.yaml; skipped when that is read."""
    PARTS: ClassVar[dict[str, bool]]
    """Parts of the model that groups of the optimiser may name; True: a group must train it."""

    base: TrainBase
    dataset: ImagesConfig
    dataloader: TrainLoaders = TrainLoaders()
    model: ModelRef
    ema: EmaConfig = EmaConfig()
    scheduler: SchedulerConfig = SchedulerConfig()
    grad_scaler: ScalerConfig = ScalerConfig()
    optimizer: OptimizerConfig
    loss: LossConfig = LossConfig()
    wandb: WandbConfig = WandbConfig()

    @model_validator(mode="after")
    def _groups_fit(self) -> "TrainConfig":
        groups, method = self.optimizer.groups, self.base.method
        if not groups:
            raise ValueError("optimizer has no group_1; nothing would be trained")
        for name, group in groups.items():
            if group.params not in self.PARTS:
                known = ", ".join(self.PARTS)
                raise ValueError(
                    f"optimizer.{name}.params: method {method} has no part {group.params!r}; known: {known}"
                )
        trained = {group.params for group in groups.values()}
        for part, needed in self.PARTS.items():
            if needed and part not in trained:
                raise ValueError(f"optimizer: no group trains {part}; add one with params: {part}")
        return self
