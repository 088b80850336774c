"""prepare_config.yaml: check, convert, detect landmarks, render faces, clear caches."""

from typing import Literal

from pydantic import NonNegativeFloat, NonNegativeInt, PositiveInt, model_validator

from utils.config.loading import Flag, StrictModel, UserPath
from utils.config.sections import DetectorName, YuNetOptions
from utils.config.synthetic import SyntheticConfig
from utils.config.train_aikd import AIKDDataset
from utils.config.train_recognition import RecognitionDataset


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


class DetectorConfig(YuNetOptions):
    """Landmark detection; the settings of YuNet act with a YuNet file."""

    detector: DetectorName
    """yunet:FILE, or the file alone | uniface:NAME | package.function; see README, "Landmarks"."""
    faces: Literal["largest", "central"] = "largest"
    """Which face of a photograph counts: the one with the largest box, or the one closest to the middle."""
    min_face_px: NonNegativeInt = 0
    """Faces whose box is narrower or lower do not count."""
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
