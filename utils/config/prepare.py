"""prepare_config.yaml: check, convert, detect landmarks, render faces, clear caches."""

from typing import Annotated, Literal

from pydantic import Field, NonNegativeFloat, PositiveInt, model_validator

from utils.config.loading import Flag, StrictModel, UserPath
from utils.config.synthetic import SyntheticConfig
from utils.config.train_aikd import AIKDDataset
from utils.config.train_recognition import RecognitionDataset

Share = Annotated[float, Field(ge=0, le=1)]


class PrepareBase(StrictModel):
    """The run."""

    task: Literal["check", "convert", "landmarks", "synthetic", "cache"]
    """check: report how landmarks and labels cover the images; convert: any landmark or label file to our CSV;
    landmarks: detect them; synthetic: render faces; cache: list or clear what a cache folder keeps."""
    save_path: UserPath = "runs/prepare"
    """Folder for what the task writes."""
    verbose: Flag = True
    """1: progress bar and report; 0: errors only."""


class ConvertConfig(StrictModel):
    """A file to read, in any format of README."""

    kind: Literal["landmarks", "labels"]
    """What it holds; written as landmarks.csv or labels.csv."""
    source: UserPath
    """The file."""


class DetectorConfig(StrictModel):
    """OpenCV's FaceDetectorYN."""

    detector: UserPath
    """YuNet file, face_detection_yunet_2023mar.onnx; see README, "Landmarks"."""
    score_threshold: Share = 0.6
    """Faces below this score do not count."""
    nms_threshold: Share = 0.3
    """Overlap above which two boxes are one face."""
    top_k: PositiveInt = 5000
    """Boxes looked at."""
    max_side_px: PositiveInt = 640
    """Larger images are shrunk for detection; landmarks are in pixels of the image as it is."""
    border: Share = 0.0
    """Black border added for detection, as a share of the longer side; helps when faces fill the image."""
    num_workers: PositiveInt = 2
    """Threads."""


class PreparedDataset(RecognitionDataset, AIKDDataset):
    """The images to train on, by whatever method."""


class CacheConfig(StrictModel):
    """A folder of what was computed once."""

    folder: UserPath
    """A folder named in dataset.cache or model.teacher_cache, or `cache` in the save_path of evaluate.py."""
    clear: Flag = False
    """1: remove entries; 0: list them."""
    kind: str = "*"
    """Only entries of this kind: index, teacher, DATASET.CONDITION.METHOD; * stands for anything."""
    unused_days: NonNegativeFloat = 0.0
    """Only entries that nobody has opened for so many days."""


class PrepareConfig(StrictModel):
    """prepare_config.yaml."""

    base: PrepareBase
    dataset: PreparedDataset | None = None
    """The same section as in train_config.yaml; for check and landmarks."""
    convert: ConvertConfig | None = None
    landmarks: DetectorConfig | None = None
    synthetic: SyntheticConfig | None = None
    cache: CacheConfig | None = None

    @model_validator(mode="after")
    def _task_has_its_sections(self) -> "PrepareConfig":
        needed = {"check": ["dataset"], "landmarks": ["dataset", "landmarks"]}.get(self.base.task, [self.base.task])
        for section in needed:
            if getattr(self, section) is None:
                raise ValueError(f"section {section!r} is needed by task {self.base.task}; add it")
        return self
