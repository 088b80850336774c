"""label_config.yaml: which label source, over which network, on which folder.

model.label_sources.label_schema completes it by the settings of each source.
"""

from pydantic import NonNegativeInt, PositiveInt, model_validator

from utils.config.inference import InferenceLoader, PageOutput
from utils.config.loading import Flag, StrictModel, UserPath
from utils.config.sections import CropInputConfig, DeviceName, NetworkKeys, ViewsConfig, require_input


class LabelBase(StrictModel):
    """The run."""

    verbose: Flag = True
    """1: progress bar and report; 0: errors only."""
    save_path: UserPath
    """Folder for labels, failures and run.json."""
    seed: NonNegativeInt = 42069
    """Seed of every draw, together with the image's name; the order of the images has no part in it."""
    device: DeviceName = "cuda:0"
    """cpu, cuda or cuda:N."""
    strict: Flag = False
    """1: exit 3 when an image got no label."""
    allow_random_init: Flag = False
    """1: a network with `weights: null` labels with random weights (trials)."""


class LabelDataset(CropInputConfig):
    """The folder to label."""

    identity: str = "parent"
    """Who is on an image, for sources that compare people: parent (the folder), top (the first folder), a table
    NAME,IDENTITY (.csv, .tsv), or a regular expression whose first group in the name is the identity."""
    sample: PositiveInt | None = None
    """Label only this many images, drawn from (base.seed, name); null: all."""


class LabelModel(NetworkKeys):
    """The network behind the labels."""

    config: UserPath | None = None
    """Path of model_config.yaml, from the working directory or beside this file; null: `weight` says which network it
    holds, by its metadata or its keys. Not read with a preset or an ONNX file."""
    weight: UserPath | None = None
    """Weights file, or .onnx; null: model.features.weights of model_config.yaml. A trained quality model needs it."""


class SourceConfig(StrictModel):
    """The label source; model/label_sources adds a section for each that has settings, only the chosen one acts."""

    name: str
    """See docs/label_sources.md."""
    rows_per_pass: PositiveInt = 32
    """Images in one pass with gradients (memory); FaceQAN counts its copies and fills each pass up."""

    views: PositiveInt = 1
    """1: the label of the aligned crop; K > 1: the mean over K crops whose landmarks are moved by `perturbation`."""
    perturbation: ViewsConfig = ViewsConfig()
    """How the views are moved."""

    @property
    def settings(self) -> StrictModel | None:
        """Return the section of the chosen source; None where it has none."""
        return getattr(self, self.name, None)


class LabelConfig(StrictModel):
    """The whole of label_config.yaml."""

    base: LabelBase
    dataset: LabelDataset
    dataloader: InferenceLoader = InferenceLoader()
    model: LabelModel
    source: SourceConfig
    output: PageOutput = PageOutput()

    @model_validator(mode="after")
    def _complete(self) -> "LabelConfig":
        require_input(self.dataset)
        if self.dataset.faces == "all":
            raise ValueError("dataset.faces: a label belongs to one face of an image; use largest or central")
        return self
