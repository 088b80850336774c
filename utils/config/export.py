"""export_config.yaml: which trained student to share, in which forms."""

from typing import Annotated, Literal

from pydantic import Field, NonNegativeInt, PositiveFloat, PositiveInt

from utils.config.loading import Flag, StrictModel, UserPath


class ExportBase(StrictModel):
    """The run."""

    verbose: Flag = True
    """1: say what is written; 0: errors only."""
    save_path: UserPath
    """Folder for the exported files."""
    seed: NonNegativeInt = 42069
    """Seed of the random crops the ONNX file is compared on."""


class ExportModel(StrictModel):
    """The trained student."""

    weight: UserPath
    """Its weights; what the training run wrote beside them goes into the model card."""
    config: UserPath | None = None
    """Path of model_config.yaml; null: as recorded in config.yaml beside the weights."""


class CheckConfig(StrictModel):
    """How the ONNX file is compared with torch before it is written."""

    crops: UserPath | None = None
    """Folder of aligned crops; null: random ones."""
    count: PositiveInt = 100
    """Crops compared."""
    tolerance: PositiveFloat = 1e-4
    """Largest difference of a quality; of an embedding's entry, times its largest magnitude where that is above 1."""


class ExportOutput(StrictModel):
    """What is written."""

    formats: Annotated[list[Literal["onnx", "safetensors"]], Field(min_length=1)] = Field(
        default_factory=lambda: ["onnx", "safetensors"]
    )
    """onnx: runs without torch and without this repository; safetensors: loads here with nothing else."""


class CardConfig(StrictModel):
    """What the model card cannot know by itself."""

    licence: str | None = None
    """Licence the weights are given under; null: the card says that none is granted."""
    notes: str | None = None
    """Further text, Markdown."""


class ExportConfig(StrictModel):
    """The whole of export_config.yaml."""

    base: ExportBase
    model: ExportModel
    check: CheckConfig = CheckConfig()
    output: ExportOutput = ExportOutput()
    card: CardConfig = CardConfig()
