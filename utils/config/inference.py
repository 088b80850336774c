"""inference_config.yaml: the official keys, and the new ones beside them."""

from typing import Literal

from pydantic import Field, NonNegativeInt, PositiveInt, model_validator

from utils.config.loading import Flag, StrictModel, UserPath
from utils.config.sections import CropInputConfig, DeviceName, NetworkKeys, Precision, require_input


class InferenceBase(StrictModel):
    """The run."""

    verbose: Flag = True
    """1: progress bar and report; 0: errors only."""
    save_path: UserPath
    """Folder for scores, failures and run.json."""
    seed: NonNegativeInt = 42069
    """Accepted; scoring draws no random number."""
    device: DeviceName = "cuda:0"
    """cpu, cuda or cuda:N."""
    precision: Precision = "fp32"
    """Number format of the network; fp32 means full fp32, TF32 off."""
    strict: Flag = False
    """1: exit 3 when an image got no score."""


class InferenceLoaderParams(StrictModel):
    """Arguments of the loader."""

    batch_size: PositiveInt = 128
    """Images per step of one process."""
    num_workers: NonNegativeInt | None = None
    """Decoding processes; null: threads on a CPU, up to 8 processes beside a GPU. No influence on scores."""


class InferenceLoader(StrictModel):
    """The loader."""

    params: InferenceLoaderParams = InferenceLoaderParams()
    """Its arguments."""


class TrainedModel(NetworkKeys):
    """The network and its weights."""

    config: UserPath | None = None
    """Path of model_config.yaml, from the working directory or beside this file; its own weights are not read. null:
    `weight` says which network it holds, by its metadata or its keys. Not read with a preset or an ONNX file."""
    weight: UserPath
    """Weights of a trained quality model (.pth, .safetensors, .onnx); their contract is checked."""


class PageOutput(StrictModel):
    """What is written beside the numbers."""

    page: Flag = True
    """1: scores.html, a page to look at: distribution, thresholds, faces from lowest to highest, failures."""


class OutputConfig(PageOutput):
    """What is written."""

    formats: list[Literal["pkl", "csv", "txt", "parquet"]] = Field(default_factory=lambda: ["pkl", "csv"])
    """Score files; pkl (official) and csv are always written, txt (`path score`) and parquet on demand."""


class InferenceConfig(StrictModel):
    """The whole of inference_config.yaml."""

    base: InferenceBase
    dataset: CropInputConfig
    dataloader: InferenceLoader = InferenceLoader()
    model: TrainedModel
    output: OutputConfig = OutputConfig()

    @model_validator(mode="after")
    def _complete(self) -> "InferenceConfig":
        require_input(self.dataset)
        return self
