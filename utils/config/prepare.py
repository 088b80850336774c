"""prepare_config.yaml: check, convert, fuse, detect landmarks, degrade, render faces, clear caches."""

from typing import Annotated, Literal

from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt, model_validator

from utils.config.loading import Flag, StrictModel, UserPath
from utils.config.sections import (
    CropInputConfig,
    DecodeConfig,
    DetectorName,
    LandmarkForm,
    ScoreForm,
    Share,
    YuNetOptions,
)
from utils.config.synthetic import SyntheticConfig
from utils.config.train_aikd import AIKDDataset
from utils.config.train_recognition import RecognitionDataset


class PrepareBase(StrictModel):
    """The run."""

    task: Literal["check", "convert", "fuse", "landmarks", "crops", "degrade", "synthetic", "cache"]
    """check: report how landmarks and labels cover the images, draw some; convert: any landmark or label file to CSV;
    fuse: several label files to one; landmarks: detect them; crops: write those that an evaluation looks at;
    degrade: blurred, dark, noisy, ... copies of images; synthetic: render faces; cache: list or clear what a cache
    folder keeps."""
    save_path: UserPath = "runs/prepare"
    """Folder for what the task writes."""
    verbose: Flag = True
    """1: progress bar and report; 0: errors only."""


class LookConfig(StrictModel):
    """What task check decodes and draws."""

    sample: PositiveInt | None = 200
    """Images to decode, beside those of the lowest and highest labels; null: all."""
    seed: NonNegativeInt = 42069
    """Seed of the sample."""


class ConvertConfig(ScoreForm, LandmarkForm):
    """A file to read, in any format of README."""

    kind: Literal["landmarks", "labels"]
    """What it holds; written as landmarks.csv or labels.csv."""
    source: UserPath
    """The file."""


class FuseConfig(StrictModel):
    """Label files of several methods, to be one."""

    files: Annotated[tuple[UserPath, ...], Field(min_length=2)]
    """Label files, in any format of README."""
    weights: tuple[PositiveFloat, ...] | None = None
    """One for each file; null: all alike."""
    higher_is_better: tuple[Flag, ...] | None = None
    """One for each file, 0: it counts downwards; null: higher is better in all of them."""
    key_root: str | None = None
    """Prefix to strip from the names; null: found automatically."""
    on_missing: Literal["error", "skip"] = "error"
    """Images of the first file that another one lacks: stop, or leave them out."""

    @model_validator(mode="after")
    def _one_for_each_file(self) -> "FuseConfig":
        for key in ("weights", "higher_is_better"):
            given = getattr(self, key)
            if given is not None and len(given) != len(self.files):
                raise ValueError(f"{key} has {len(given)} values for {len(self.files)} files; give one for each")
        return self


class DegradeConfig(DecodeConfig):
    """A folder of images, to be copied and made worse."""

    loc: UserPath
    """Folder, or a file that holds images; the folder of an image is its identity."""
    landmarks: UserPath | None = None
    """Landmark file of the images; null: they are aligned crops."""
    key_root: str | None = None
    """Prefix to strip from the names in the landmark file; null: found automatically."""
    on_missing: Literal["error", "skip"] = "error"
    """Images without landmarks: stop, or list them in failures.csv."""
    accept_unusual: Flag = False
    """1: go on, with a warning, where most images cannot be what they are said to be (docs/checks.md)."""
    seed: NonNegativeInt = 42069
    """Each image's degradation depends on seed and name alone."""
    share: Share = 1.0
    """Share of the images that are degraded; the others are copied as they are."""
    two: Share = 0.5
    """Share of the degraded images that get two kinds at once instead of one."""
    strongest: Share = 0.8
    """The highest of the five grades, as a share of the renderer's range."""
    references: Flag = True
    """1: originals in reference/, degraded copies in probe/, pairs of both in pairs.txt; 0: one folder to train on, the
    images under their own names."""
    mated_per_identity: PositiveInt = 50
    """At most this many mated pairs of one identity, which is an image's folder."""
    non_mated: PositiveInt = 100_000
    """Non-mated pairs."""
    metadata: UserPath | None = None
    """CSV with `path` and columns to carry over; null: none."""
    num_workers: PositiveInt = 2
    """Threads; results do not depend on it."""

    @property
    def crops(self) -> CropInputConfig:
        """Return how the images are opened."""
        keys = ("loc", "landmarks", "key_root", "on_missing", "exif", "max_pixels", "accept_unusual")
        kind = "aligned" if self.landmarks is None else "landmarks"
        return CropInputConfig(input=kind, **{key: getattr(self, key) for key in keys})


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


class CropsConfig(StrictModel):
    """The crops of an evaluation, for programs that score image files."""

    evaluation: UserPath
    """evaluate_config.yaml that says which data sets, and with `misalignment` which views of them."""
    datasets: tuple[str, ...] | None = None
    """Data sets to write; null: all."""
    container: Literal["folder", "tar"] = "folder"
    """A folder of PNG, or a .tar of them, for each view: save_path/DATASET/aligned, save_path/DATASET/p=4/seed=1."""


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
    check: LookConfig = LookConfig()
    convert: ConvertConfig | None = None
    fuse: FuseConfig | None = None
    landmarks: DetectorConfig | None = None
    crops: CropsConfig | None = None
    degrade: DegradeConfig | None = None
    synthetic: SyntheticConfig | None = None
    cache: CacheConfig | None = None

    @model_validator(mode="after")
    def _task_has_its_sections(self) -> "PrepareConfig":
        needed = {"check": ["dataset"], "landmarks": ["dataset", "landmarks"]}.get(self.base.task, [self.base.task])
        for section in needed:
            if getattr(self, section) is None:
                raise ValueError(f"section {section!r} is needed by task {self.base.task}; add it")
        return self
