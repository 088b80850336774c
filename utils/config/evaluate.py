"""evaluate_config.yaml: whose scores, on which pairs, judged by which recognition models."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import (
    BeforeValidator,
    Field,
    NonNegativeInt,
    PositiveInt,
    model_validator,
)

from utils.config.evaluating.misalignment import MisalignmentConfig, ViewFileLists, ViewFiles
from utils.config.evaluating.pairs import PairsConfig
from utils.config.loading import Flag, StrictModel, UserPath
from utils.config.sections import (
    DeviceName,
    NetworkKeys,
    Precision,
    ScoreForm,
    ViewsConfig,
)


def _several(value: Any) -> Any:
    return value if isinstance(value, list | tuple) else (value,)


Share = Annotated[float, Field(gt=0, lt=1)]


class EvaluateBase(StrictModel):
    """The run."""

    verbose: Flag = True
    """1: progress bar and report; 0: errors only."""
    save_path: UserPath
    """Folder for tables, plots, the report and the cache of embeddings and scores."""
    seed: NonNegativeInt = 42069
    """Seed of the bootstrap and of drawn pairs."""
    device: DeviceName = "cuda:0"
    """cpu, cuda or cuda:N; only used when a network has to run."""
    precision: Precision = "fp32"
    """Number format of recognition and quality models; label sources compute in fp32."""


class EvaluationSection(StrictModel):
    """The measure."""

    fmr: Annotated[tuple[Share, ...], BeforeValidator(_several), Field(min_length=1)] = (1e-3,)
    """False match rates that set the threshold: one, or a list; each has tables of its own."""
    discard_limits: Annotated[tuple[Share, ...], Field(min_length=1)] = (0.2, 0.3)
    """Discard fractions up to which the area is taken; the largest is drawn and tabulated."""
    rule: Literal["fixed_threshold", "pooled_rethreshold", "pooled_floor"] = "fixed_threshold"
    """fixed_threshold: mated pairs leave, stepwise, at a threshold set once. pooled_rethreshold: CR-FIQA's evaluation,
    mated and non-mated pairs leave together, and every 5 % the threshold is the score whose FMR is closest to the
    target. pooled_floor: the same with the lowest threshold whose FMR is at most the target."""
    bootstrap: NonNegativeInt = 1000
    """Replicates over identities behind each interval; 0: no intervals."""
    bootstrap_threshold: Flag = False
    """1: non-mated pairs are drawn anew with the identities, and with them the threshold; 0: it is held fixed."""
    on_missing: Literal["error", "skip"] = "error"
    """Images without score, embedding or crop: stop, or leave their pairs out for every method and say so.

    With the fixed threshold a non-mated pair needs embeddings only.
    """

    @model_validator(mode="after")
    def _check(self) -> "EvaluationSection":
        for key in ("fmr", "discard_limits"):
            if len(set(getattr(self, key))) != len(getattr(self, key)):
                raise ValueError(f"{key} names a value twice")
        return self


class RecogniserConfig(NetworkKeys):
    """One recognition model, or embeddings it gave."""

    embeddings: dict[str, ViewFiles] = Field(default_factory=dict)
    """DATASET: .npz with `names` and `embeddings`, or another form of docs/formats.md; or such for each view:
    {aligned: FILE, p=4/seed=1: FILE, ...}."""
    comparisons: dict[str, ViewFileLists] = Field(default_factory=dict)
    """DATASET: comparison scores, `imgA,imgB,score` or dasec's JSON, one file or a list; or such for each view."""
    distances: Flag = False
    """1: the comparison scores are distances, which fall as faces are more alike; `threshold` is one then too."""
    threshold: float | None = None
    """A comparison score from which on it accepts; null: found from the non-mated pairs at each evaluation.fmr."""
    module: str | None = None
    """Backbone to run, e.g. model.iresnet.iresnet100; null: the weights say which, by their metadata or
    their keys."""
    params: dict[str, Any] = Field(default_factory=dict)
    """Its keyword arguments."""
    weights: UserPath | None = None
    """Weights file (.pth, .pt, .safetensors), or .onnx."""
    flip: Flag = False
    """1: add the embedding of the mirrored crop."""
    precision: Precision | None = None
    """Its number format; null: base.precision."""

    @property
    def runs(self) -> bool:
        """Tell whether the model itself is given."""
        return self.weights is not None

    @model_validator(mode="after")
    def _check(self) -> "RecogniserConfig":
        if self.weights is None and not self.embeddings and not self.comparisons:
            raise ValueError("expected embeddings, comparisons, or weights")
        if twice := sorted(self.embeddings.keys() & self.comparisons.keys()):
            raise ValueError(f"there are embeddings and comparisons of {twice[0]}; give one of them")
        if self.distances and not self.comparisons:
            raise ValueError("distances goes with comparisons; remove it")
        if self.precision is not None and self.weights is None:
            raise ValueError("precision goes with weights; remove it")
        return self


class ScoresConfig(NetworkKeys, ScoreForm):
    """One quality method: a score file per data set, a trained quality model, or a label source."""

    files: dict[str, ViewFiles] = Field(default_factory=dict)
    """DATASET: score file, or {aligned: FILE, p=4/seed=1: FILE, ...} for each view; the data sets may also stand
    directly under the method."""
    higher_is_better: Flag = True
    """0: the score files count downwards; scores are negated."""
    weights: UserPath | None = None
    """Weights of a trained quality model; runs on every data set with images, and on perturbed crops."""
    config: UserPath | None = None
    """Its model_config.yaml; null: the weights say which network they are, by their metadata or their keys."""
    precision: Precision | None = None
    """Its number format; null: base.precision."""
    source: UserPath | None = None
    """label_config.yaml of a label source, run here as a scorer."""
    views: PositiveInt | None = None
    """K > 1: the mean score over K crops whose landmarks are moved once more, K passes; null: source.views of the label
    configuration, else 1."""
    perturbation: ViewsConfig | None = None
    """How they are moved; null: source.perturbation of the label configuration, else by 4 template pixels."""

    @property
    def runs(self) -> bool:
        """Tell whether the model itself is given."""
        return self.weights is not None or self.source is not None

    @model_validator(mode="before")
    @classmethod
    def _gather(cls, values: Any) -> Any:
        if not isinstance(values, dict):
            return values
        files = {
            key: value for key, value in values.items() if key not in cls.model_fields and isinstance(value, str | dict)
        }
        if not files:
            return values
        rest = {key: value for key, value in values.items() if key not in files}
        return {**rest, "files": {**files, **(rest.get("files") or {})}}

    @model_validator(mode="after")
    def _check(self) -> "ScoresConfig":
        if self.precision is not None and self.weights is None:
            raise ValueError("precision goes with weights; remove it")
        if self.config is not None and self.weights is None:
            raise ValueError("config goes with weights; name the weights too, or remove it")
        if (self.weights is not None) + (self.source is not None) + bool(self.files) != 1:
            raise ValueError("expected exactly one of score files, weights or source")
        if not self.runs and (self.views is not None or self.perturbation is not None):
            raise ValueError("views and perturbation need weights or source; score files hold one score per image")
        return self


class ThresholdConfig(ScoreForm):
    """What a score means: thresholds for wanted discard rates."""

    scores: UserPath | None = None
    """Score file; when given, its threshold and percentile tables are printed and nothing else is done."""
    higher_is_better: Flag = True
    """0: the file counts downwards."""
    discard: Annotated[tuple[Share, ...], Field(min_length=1)] = (0.01, 0.02, 0.05, 0.1, 0.2, 0.3)
    """Shares of images a user may want to discard."""


class PassParams(StrictModel):
    """How crops are read: each image once for all networks, in the order of their names."""

    batch_size: PositiveInt = 64
    """Images per step."""
    num_workers: NonNegativeInt = 0
    """Decoding processes; results do not depend on it."""

    @model_validator(mode="before")
    @classmethod
    def _keeps_its_order(cls, values: Any) -> Any:
        """Refuse what an evaluation cannot do; the config.yaml of older runs holds both keys, switched off."""
        if not isinstance(values, dict):
            return values
        for key in ("shuffle", "pin_memory"):
            if values.get(key):
                raise ValueError(f"{key} has no effect in an evaluation, whose results know no order; remove it")
        return {key: value for key, value in values.items() if key not in ("shuffle", "pin_memory")}


class PassLoader(StrictModel):
    """The loader of an evaluation."""

    params: PassParams = PassParams()
    """Its arguments."""


class EvaluateConfig(StrictModel):
    """The whole of evaluate_config.yaml."""

    base: EvaluateBase
    evaluation: EvaluationSection = EvaluationSection()
    datasets: dict[str, PairsConfig] = Field(default_factory=dict)
    """NAME: data set."""
    recognition: dict[str, RecogniserConfig] = Field(default_factory=dict)
    """NAME: recognition model."""
    scores: dict[str, ScoresConfig] = Field(default_factory=dict)
    """METHOD: quality method."""
    misalignment: MisalignmentConfig | None = None
    """Off when absent."""
    thresholds: ThresholdConfig = ThresholdConfig()
    dataloader: PassLoader = PassLoader()
    """Crops per step, decoding processes."""

    @model_validator(mode="after")
    def _check(self) -> "EvaluateConfig":
        if self.thresholds.scores is not None:
            return self
        for section in ("datasets", "recognition", "scores"):
            if not getattr(self, section):
                raise ValueError(f"{section} is empty; name at least one")
            for name in getattr(self, section):
                if not name.strip(". ") or any(mark in name for mark in ("/", "\\", "\0")):
                    raise ValueError(f"{section}: {name!r} cannot be part of a file's name; leave out slashes")
        named: list[tuple[str, Mapping[str, Any]]] = [
            (f"recognition.{name}.embeddings", one.embeddings) for name, one in self.recognition.items()
        ]
        named += [(f"recognition.{name}.comparisons", one.comparisons) for name, one in self.recognition.items()]
        named += [(f"scores.{name}", one.files) for name, one in self.scores.items()]
        if self.misalignment is not None:
            named.append(("misalignment.second_landmarks", self.misalignment.second_landmarks))
            named.append(("misalignment.boxes", self.misalignment.boxes))
        self._check_thresholds()
        for place, files in named:
            for dataset in files:
                if dataset not in self.datasets:
                    raise ValueError(f"{place}.{dataset}: no data set of this name; known: {', '.join(self.datasets)}")
        return self

    def _check_thresholds(self) -> None:
        """Refuse thresholds of elsewhere that nothing gives, or that the rule does not use."""
        names = list(self.datasets)
        given = [f"recognition.{name}.threshold" for name, one in self.recognition.items() if one.threshold is not None]
        for place, name in enumerate(names):
            source = self.datasets[name].threshold_from
            if source is not None and source not in names[:place]:
                raise ValueError(f"datasets.{name}.threshold_from: {source!r} is no data set listed before {name}")
            given += [f"datasets.{name}.threshold_from"] if source is not None else []
        if given and self.evaluation.rule != "fixed_threshold":
            raise ValueError(f"{given[0]} needs evaluation.rule: fixed_threshold; the pooled rules set their own")
