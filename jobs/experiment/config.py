"""paper.yaml: what a folder may hold, and what is trained and evaluated with it."""

from typing import Any, Literal

from pydantic import Field, NonNegativeInt

from utils.config.loading import Flag, StrictModel, UserPath


class Wanted(StrictModel):
    """A file or folder that the data folder may hold."""

    files: tuple[str, ...] = Field(min_length=1)
    """Paths below base.data; the first that is there counts."""
    origin: str
    """Where it comes from, for those who lack it."""


class PaperBase(StrictModel):
    """The run."""

    data: UserPath
    """Folder of images, landmarks, labels and weights."""
    save_path: UserPath = "runs/paper"
    """Folder for all that is made."""
    device: str = "cuda:0"
    """cpu, cuda or cuda:N."""
    seed: NonNegativeInt = 42069
    """Seed of training, and of the evaluation's draws."""
    num_workers: NonNegativeInt = 8
    """Decoding processes."""
    small: Flag = False
    """1: the network and the shorter runs of section `small`."""
    verbose: Flag = True
    """0: tables and errors only."""


class TrainingFiles(StrictModel):
    """The training images."""

    images: Wanted
    """Folder of loose crops."""
    landmarks: Wanted
    """Their landmarks."""


class BackboneConfig(StrictModel):
    """The recognition network that student and teacher start from."""

    module: str
    """Its class."""
    weights: Wanted
    """Its weights."""


class PaperSource(StrictModel):
    """A quality method X that gives labels."""

    labels: Wanted
    """Its labels of the training images."""
    weights: Wanted | None = None
    """Its own network; null: the backbone."""
    label: dict[str, Any]
    """Sections of label_config.yaml, for labels that are not there and to score the test sets."""
    head: str = "model.mlp.MLP"
    """Quality head of its network."""


class RecipeConfig(StrictModel):
    """One way to train."""

    changes: dict[str, Any] = Field(default_factory=dict)
    """Dotted keys of train.yaml and their values."""
    initialisation: Literal["backbone", "random"] = "backbone"
    """Weights the student starts from; the teacher always has the backbone's."""


class SingleChanges(StrictModel):
    """Recipes that differ from AI-KD in one thing."""

    of: str
    """The X whose labels they are trained on, or the first that has some."""
    recipes: dict[str, RecipeConfig]
    """NAME: recipe."""


class TestSet(StrictModel):
    """A data set of the tables."""

    __test__ = False
    root: str
    """Folder of its images, below base.data as the next two."""
    pairs: str
    """Its pairs file or protocol folder."""
    format: str
    """Layout of `pairs`, see evaluate_config.yaml."""
    landmarks: str | None
    """Landmark file; null: the images are aligned crops."""
    origin: str
    """Where it comes from."""
    keys: dict[str, Any] = Field(default_factory=dict)
    """Further keys of `datasets` in evaluate_config.yaml."""


class NetworkFile(StrictModel):
    """A recognition model or quality method that is a weights file."""

    weights: Wanted
    """The file."""
    keys: dict[str, Any] = Field(default_factory=dict)
    """Further keys of `recognition` or `scores` in evaluate_config.yaml."""


class SmallBackbone(StrictModel):
    """The network of a trial."""

    module: str
    """Its class."""


class SmallConfig(StrictModel):
    """What base.small changes."""

    backbone: SmallBackbone
    """Stands for every network that is no ONNX file."""
    training: dict[str, Any] = Field(default_factory=dict)
    """Dotted keys of train.yaml; a recipe's own changes come on top."""
    labelling: dict[str, Any] = Field(default_factory=dict)
    """Sections of label_config.yaml."""
    evaluation: dict[str, Any] = Field(default_factory=dict)
    """Sections of evaluate_config.yaml."""


class PaperConfig(StrictModel):
    """The whole of paper.yaml."""

    base: PaperBase
    training: TrainingFiles
    backbone: BackboneConfig
    sources: dict[str, PaperSource]
    """X: quality method."""
    recipes: dict[str, RecipeConfig]
    """NAME: recipe, trained as NAME(X) on the labels of every X."""
    single_changes: SingleChanges
    datasets: dict[str, TestSet]
    """NAME: data set of the tables."""
    detector: Wanted
    """YuNet, for data sets without a landmark file."""
    recognition: dict[str, NetworkFile]
    """NAME: recognition model beside the backbone."""
    methods: dict[str, NetworkFile]
    """NAME: quality method that is compared."""
    evaluation: dict[str, Any]
    """Sections of evaluate_config.yaml."""
    small: SmallConfig
