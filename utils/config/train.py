"""train_config.yaml: the official keys, and the new ones beside them."""

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
from utils.config.sections import DecodeConfig, LoaderConfig, LoaderParams, ModuleSpec, PerturbationConfig

Fraction = Annotated[float, Field(ge=0, le=1)]


def _resume(value: Any) -> Any:
    return "auto" if value == "auto" else 0 if value in (0, False, "0") else value


class TrainBase(StrictModel):
    """The run."""

    method: Literal["aikd", "cosface", "crfiqa"] = "aikd"
    """What is trained: AI-KD, a CosFace teacher, or CR-FIQA."""
    epochs: PositiveInt = 1
    """Passes over the training images."""
    verbose: Flag = True
    """1: progress bar and report; 0: errors only."""
    save_path: UserPath
    """Folder for weights, metrics and the resume file."""
    seed: NonNegativeInt = 42069
    """Seed of initialisation, order and perturbations."""
    device: str = "cuda:0"
    """cpu, cuda or cuda:N."""
    amp: Flag = True
    """1: mixed precision on CUDA (bf16 where the device has it, else fp16 with loss scaling)."""
    precision: Literal["auto", "bf16"] = "auto"
    """auto: as `amp` says; bf16: mixed precision in bf16 on any device, a CPU too."""
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
    select_on: Literal["misaligned", "aligned", "mean"] = "mean"
    """Crops whose validation quality loss selects the best weights."""
    allow_random_init: Flag = False
    """1: a backbone with `weights: null` starts from random weights."""
    compile: Flag = False
    """1: torch.compile the networks."""


class DatasetConfig(DecodeConfig):
    """The training images, their landmarks and labels."""

    image_location: UserPath
    """Root folder of the images (or a .rec file with `format: recordio`)."""
    quality_location: UserPath | None = None
    """Quality labels, any format of README, "Labels"; needed by AI-KD."""
    landms_location: UserPath | None = None
    """Landmark file, or `template` when the images are already aligned 112x112 crops."""
    misalign: Flag = True
    """1: the student sees perturbed crops; 0: the aligned ones."""
    val_percent: Annotated[float, Field(ge=0, lt=1)] = 0.01
    """Share of the images held out for validation, evenly over the sorted labels."""
    perturbation: PerturbationConfig = PerturbationConfig()
    """Landmark noise of the misaligned crop."""
    label_scaling: Literal["minmax", "rank", "none"] = "minmax"
    """Map the labels to [0, 1] by their extremes or ranks, or leave them."""
    higher_is_better: Flag = True
    """0: the label file counts downwards; labels are negated first."""
    key_root: str | None = None
    """Prefix to strip from the names in label and landmark files; null: found automatically."""
    on_missing: Literal["error", "skip"] = "error"
    """Images without label or landmarks, or unreadable: stop, or leave them out and say so."""
    cache: UserPath | None = None
    """Folder for the checked index, reused while the inputs are unchanged; null: none."""
    format: Literal["folders", "recordio"] = "folders"
    """Recognition training: identity folders, or train.rec with its train.idx."""
    flip: Flag = False
    """1: mirror a crop with probability one half (recognition training)."""
    val_pairs: UserPath | None = None
    """Recognition training: pairs to validate on (`imgA imgB 1|0`, LFW's pairs.txt, CFP's Protocol, .bin)."""
    val_location: UserPath | None = None
    """Folder of the pairs' images; null: image_location, and their identities are not trained on."""
    val_landms_location: UserPath | None = None
    """Landmark file of val_location; null: its images are aligned crops."""


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
    teacher_cache: UserPath | None = None
    """AI-KD: folder in which the teacher's embeddings are kept, for every run on the same images; null: none."""


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

    params: Literal["quality_head", "feature_extractor", "margin", "adapter"]
    """Part of the model."""
    lr: NonNegativeFloat
    """Learning rate."""
    limit: PositiveInt | None = None
    """Train only the last `limit` parameter tensors of the part; null: all."""
    clip: Flag = True
    """0: leave this group out of the gradient norm."""


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

    @property
    def groups(self) -> dict[str, GroupConfig]:
        """Return the groups that are given."""
        named = {name: getattr(self, name) for name in ("group_1", "group_2", "group_3", "group_4")}
        return {name: group for name, group in named.items() if group is not None}


class RefinementConfig(StrictModel):
    """Label refinement of eDifFIQA, a variant of AI-KD: `loss.refinement: {}` switches it on."""

    theta: Fraction = 0.5
    """theta * consistency + (1 - theta) * quality; multiplies loss.weights."""
    epsilon: NonNegativeFloat = 0.5
    """Refined label: label - epsilon * (1 - cos(student's embedding, centre of the identity)), kept in [0, 1]."""
    top: Annotated[float, Field(gt=0, le=1)] = 0.2
    """Share of an identity's images, those with the highest labels, whose embeddings make its centre."""
    min_images: PositiveInt = 10
    """Images of smaller identities are left out of training."""

    @property
    def shares(self) -> tuple[float, float]:
        """Return the shares of consistency and quality."""
        return self.theta, 1 - self.theta


class LossConfig(StrictModel):
    """The loss terms."""

    quality: ModuleSpec = ModuleSpec(module="torch.nn.SmoothL1Loss", params={"beta": 0.5})
    """Quality regression; torch.nn.L1Loss is the paper's symbol."""
    consistency: ModuleSpec = ModuleSpec(module="torch.nn.CosineEmbeddingLoss")
    """AI-KD: 1 - cos(student, teacher)."""
    recognition: ModuleSpec | None = None
    """cosface, crfiqa: margin head, e.g. model.margins.CosFaceHead with scale and margin."""
    ratio: Literal["paper", "released"] = "paper"
    """crfiqa: denominator NNCCS + 1 + eps (paper) or NNCCS alone, at least -1e-12 (released code)."""
    refinement: RefinementConfig | None = None
    """aikd: refine the labels by the centres of the identities (eDifFIQA); null: train on the labels as given."""
    weights: list[NonNegativeFloat] | None = None
    """Factor of each term in the order they are logged; null: the method's own (AI-KD: 1, 1)."""


class WandbConfig(StrictModel):
    """Weights & Biases; imported only when used."""

    use: Flag = False
    """1: log there too."""
    project: str = "ai-kd"
    """Project name."""


class TrainConfig(StrictModel):
    """The whole of train_config.yaml."""

    RECORDS: ClassVar = ("model_config", "inputs")
    """What a run adds to its config.yaml; skipped when that is read."""

    base: TrainBase
    dataset: DatasetConfig
    dataloader: TrainLoaders = TrainLoaders()
    model: ModelRef
    ema: EmaConfig = EmaConfig()
    scheduler: SchedulerConfig = SchedulerConfig()
    grad_scaler: ScalerConfig = ScalerConfig()
    optimizer: OptimizerConfig
    loss: LossConfig = LossConfig()
    wandb: WandbConfig = WandbConfig()

    @model_validator(mode="after")
    def _complete(self) -> "TrainConfig":
        if self.base.method == "aikd":
            for key in ("quality_location", "landms_location"):
                if getattr(self.dataset, key) is None:
                    raise ValueError(f"dataset.{key} is needed by method aikd; name the file")
        elif self.model.teacher_cache is not None:
            raise ValueError(f"model.teacher_cache: method {self.base.method} has no teacher; remove the key")
        elif self.loss.recognition is None:
            raise ValueError(f"loss.recognition is needed by method {self.base.method}; name a margin head")
        elif self.loss.refinement is not None:
            raise ValueError(f"loss.refinement: method {self.base.method} has no labels to refine; remove the key")
        if not self.optimizer.groups:
            raise ValueError("optimizer has no group_1; nothing would be trained")
        return self


_DISTILLATION = (
    "base.select_on",
    "dataset.quality_location",
    "dataset.misalign",
    "dataset.perturbation",
    "dataset.label_scaling",
    "dataset.higher_is_better",
    "loss.consistency",
)
_RECOGNITION = (
    "dataset.format",
    "dataset.flip",
    "dataset.val_pairs",
    "dataset.val_location",
    "dataset.val_landms_location",
    "loss.recognition",
    "loss.ratio",
)
UNUSED = {
    "aikd": _RECOGNITION,
    "cosface": (*_DISTILLATION, "loss.quality", "loss.ratio"),
    "crfiqa": _DISTILLATION,
}
"""METHOD: keys it does not read."""
