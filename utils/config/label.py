"""label_config.yaml: which label source, over which network, on which folder."""

from typing import Annotated, Literal

from pydantic import Field, NonNegativeInt, PositiveFloat, PositiveInt, model_validator

from utils.config.inference import InferenceLoader
from utils.config.loading import Flag, StrictModel, UserPath
from utils.config.sections import CropInputConfig


class LabelBase(StrictModel):
    """The run."""

    verbose: Flag = True
    """1: progress bar and report; 0: errors only."""
    save_path: UserPath
    """Folder for labels, failures and run.json."""
    seed: NonNegativeInt = 42069
    """Seed of every draw, together with the image's name; the order of the images has no part in it."""
    device: str = "cuda:0"
    """cpu, cuda or cuda:N."""
    strict: Flag = False
    """1: exit 3 when an image got no label."""
    allow_random_init: Flag = False
    """1: a network with `weights: null` labels with random weights (trials)."""


class LabelDataset(CropInputConfig):
    """The folder to label."""

    sample: PositiveInt | None = None
    """Label only this many images, drawn from (base.seed, name); null: all."""


class LabelModel(StrictModel):
    """The network behind the labels."""

    config: UserPath
    """Path of model_config.yaml, from the working directory or beside this file."""
    weight: UserPath | None = None
    """Weights file; null: model.features.weights of model_config.yaml. cr_fiqa and student need it."""


class DropoutConfig(StrictModel):
    """Where SER-FIQ drops activations."""

    rate: Annotated[float, Field(gt=0, lt=1)] | None = None
    """Share of dropped activations; null: the network's own dropout layers, at their own rates."""
    before: str | None = None
    """Module whose input is dropped out, with `rate`; null: the last Linear."""


class SerFiqConfig(StrictModel):
    """SER-FIQ: agreement of stochastic embeddings."""

    passes: Annotated[int, Field(ge=2)] = 100
    """T, stochastic embeddings per image."""
    dropout: DropoutConfig = DropoutConfig()
    """The dropout that makes them differ."""


class FaceQanConfig(StrictModel):
    """FaceQAN: agreement under adversarial noise."""

    copies: PositiveInt = 10
    """k, noisy copies per image."""
    iterations: PositiveInt = 5
    """l, cosines recorded per copy; each but the last is followed by a step up the gradient's sign."""
    epsilon: PositiveFloat = 0.001
    """Half-width of the start noise and size of a step, for pixels in [0, 1]."""


class SddFiqaConfig(StrictModel):
    """SDD-FIQA: distance between the cosines within and across identities."""

    partners: PositiveInt = 24
    """Cosines drawn of each kind."""
    rounds: PositiveInt = 12
    """Independent draws that are averaged."""


class GrafiqsConfig(StrictModel):
    """GraFIQs: gradients of the BatchNorm statistics' mismatch."""

    tap: str = "image"
    """Where the gradients are summed: image, or the module whose output is taken."""


class SourceConfig(StrictModel):
    """The label source; only the section of the chosen one has an effect."""

    name: Literal["ser_fiq", "faceqan", "cr_fiqa", "magnitude", "sdd_fiqa", "grafiqs", "student"] = "ser_fiq"
    """See docs/label_sources.md."""
    rows_per_pass: PositiveInt = 32
    """Images in one pass with gradients (memory); FaceQAN counts its copies and fills each pass up."""
    ser_fiq: SerFiqConfig = SerFiqConfig()
    """Needs dropout."""
    faceqan: FaceQanConfig = FaceQanConfig()
    """Needs gradients."""
    sdd_fiqa: SddFiqaConfig = SddFiqaConfig()
    """Needs identities: an image's identity is the folder it lies in."""
    grafiqs: GrafiqsConfig = GrafiqsConfig()
    """Needs gradients and BatchNorm2d layers."""


class LabelConfig(StrictModel):
    """The whole of label_config.yaml."""

    base: LabelBase
    dataset: LabelDataset
    dataloader: InferenceLoader = InferenceLoader()
    model: LabelModel
    source: SourceConfig = SourceConfig()

    @model_validator(mode="after")
    def _complete(self) -> "LabelConfig":
        if self.source.name in ("cr_fiqa", "student") and self.model.weight is None:
            raise ValueError(f"model.weight is needed by source {self.source.name}; name its weights file")
        if self.source.ser_fiq.dropout.before is not None and self.source.ser_fiq.dropout.rate is None:
            raise ValueError("source.ser_fiq.dropout.before needs source.ser_fiq.dropout.rate; give it, e.g. 0.4")
        if (self.dataset.input == "landmarks") != (self.dataset.landmarks is not None):
            raise ValueError("dataset.landmarks goes with dataset.input: landmarks; give both or neither")
        return self
