"""Sections that several scripts share."""

import os
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    model_validator,
)

from utils.config.loading import Flag, StrictModel, UserPath

Channels = Literal["RGB", "BGR"]
Precision = Literal["fp32", "bf16", "fp16"]
"""Number format of a network that only answers; fp32 means full fp32, TF32 off."""


def _device_name(value: Any) -> Any:
    if isinstance(value, int):
        raise ValueError("expected cpu, cuda or cuda:N")
    return value


DeviceName = Annotated[str, BeforeValidator(_device_name)]
"""cpu, cuda or cuda:N."""


class ModuleSpec(StrictModel):
    """Name a class or function and its keyword arguments."""

    module: str
    """Dotted name, resolved by kind; see README, "What a YAML may name"."""
    params: dict[str, Any] = Field(default_factory=dict)
    """Keyword arguments."""


class NetworkConfig(ModuleSpec):
    """Name a backbone and the file its weights come from."""

    weights: UserPath | None
    """Weights file (.pth, .pt, .safetensors); null: random, only with base.allow_random_init: 1."""
    part: str | None = None
    """Which entry to read where several hold weights, e.g. model or ema; null: the average, and the log says so."""
    output: str | int | None = None
    """Of several outputs the embedding, by name or number; null: the first. For networks of --allow-module."""


class NetworkKeys(StrictModel):
    """How one network is fed and read. null: as its file, its preset or its transform block says."""

    preset: str | None = None
    """A published network by name: its layers, its input, what its number means; `list` prints them."""
    part: str | None = None
    """Which entry to read where several hold weights, e.g. model or ema; null: the average, and the log says so."""
    channels: Channels | None = None
    """Channel order it was trained with."""
    mean: float | tuple[float, float, float] | None = None
    """Subtracted from pixel / 255, in the order of `channels`."""
    std: PositiveFloat | tuple[PositiveFloat, PositiveFloat, PositiveFloat] | None = None
    """What is left is divided by it."""
    size_px: PositiveInt | None = None
    """Side of its crops."""
    output: str | int | None = None
    """Of several outputs the one that counts, by name or number; null: the first that fits."""
    quality: Literal["head", "output", "length"] | None = None
    """Where the quality is: in a head, in an output of one number, or the length of the embedding."""

    @property
    def fed(self) -> dict[str, Any]:
        """Return the stated fields of the preprocessing contract."""
        stated = {key: getattr(self, key) for key in ("size_px", "channels", "mean", "std")}
        return {
            key: (float(value),) * 3 if key in ("mean", "std") and not isinstance(value, tuple) else value
            for key, value in stated.items()
            if value is not None
        }


class ModelConfig(StrictModel):
    """model_config.yaml: the student, and the teacher when it is another network; all of it below `model:` or not."""

    features: NetworkConfig
    """Student backbone; without `teacher` the teacher is the same network with the same weights."""
    head: ModuleSpec = ModuleSpec(module="model.mlp.MLP")
    """Quality head; `in_dim` follows the backbone unless it is given."""
    wrapper: ModuleSpec = ModuleSpec(module="model.ai_kd.WrapperModel")
    """Always model.ai_kd.WrapperModel."""
    teacher: NetworkConfig | None = None
    """Teacher backbone when it differs from the student's."""
    transform: dict[str, ModuleSpec] = Field(
        default_factory=lambda: {
            "trans_1": ModuleSpec(module="torchvision.transforms.Resize", params={"size": 112}),
            "trans_2": ModuleSpec(module="torchvision.transforms.ToTensor"),
            "trans_3": ModuleSpec(module="torchvision.transforms.Normalize", params={"mean": 0.5, "std": 0.5}),
        }
    )
    """Resize, ToTensor, Normalize: the preprocessing contract."""
    channels: Channels = "RGB"
    """Channel order of the network's input; mean and std are in this order."""

    @model_validator(mode="before")
    @classmethod
    def _without_the_official_wrapper(cls, values: Any) -> Any:
        return values["model"] if isinstance(values, dict) and values.keys() == {"model"} else values


Border = Literal["black", "replicate", "reflect"]


class PerturbationConfig(StrictModel):
    """How the landmarks of the misaligned crop are moved."""

    radius_px: NonNegativeFloat = 3.0
    """Half-width p of the uniform offset added to each of the 5x2 landmark coordinates."""
    unit: Literal["source", "template"] = "source"
    """Pixels of the source image (paper, released code) or of the 112x112 template."""
    border: Border = "black"
    """What a misaligned crop shows outside its image: black (released code), the nearest pixel, or the image mirrored.

    Crops of photographs rarely reach beyond them; those of copies that are aligned already do."""


class ViewsConfig(PerturbationConfig):
    """How the landmarks of the crops are moved over which a method averages."""

    radius_px: NonNegativeFloat = 4.0
    """Half-width of the uniform offset added to each of the 5x2 landmark coordinates."""
    unit: Literal["source", "template"] = "template"
    """Pixels of the source image or of the 112x112 template."""


class DecodeConfig(StrictModel):
    """How image files become pixels."""

    exif: Flag = True
    """1: apply EXIF rotation; 0: ignore it, for landmarks taken on unrotated pixels."""
    max_pixels: PositiveInt = 100_000_000
    """Refuse larger images, from the header."""


class LandmarkForm(StrictModel):
    """What a landmark file holds, where it does not tell by itself."""

    landmark_points: Literal["insightface_106", "jd_106", "sensetime_106"] | None = None
    """Order of 106 points; null: the file holds 5, 68 (iBUG) or 98 (WFLW) points (docs/formats.md)."""
    landmark_faces: Literal["error", "largest", "best"] = "error"
    """Several faces of one image in the landmark file: refuse it, or take the face whose five points span the largest
    area, or the one with the highest score of its detector."""


class ImageInputConfig(DecodeConfig, LandmarkForm):
    """Images that somebody prepared."""

    accept_unusual: Flag = False
    """1: go on, with a warning, where most images cannot be what they are said to be: photographs taken for aligned
    crops, landmarks of another version of the images."""
    names: UserPath | None = None
    """Text file with a name in each line for the images of a container that numbers them; null: its own names."""


Share = Annotated[float, Field(ge=0, le=1)]


class YuNetOptions(StrictModel):
    """OpenCV's FaceDetectorYN."""

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


def _detector(value: str) -> str:
    kind, colon, name = value.partition(":")
    if kind in ("yunet", "uniface") and colon:
        if not name:
            raise ValueError(f"{kind}: names nothing; expected yunet:FILE or uniface:NAME")
        return f"{kind}:{os.path.expanduser(name)}"
    return os.path.expanduser(value)


DetectorName = Annotated[str, AfterValidator(_detector)]
"""yunet:FILE, uniface:NAME, or the dotted name of a function of a package that --allow-module names."""


class DetectionConfig(StrictModel):
    """How the faces of photographs are found."""

    detector: DetectorName | None = None
    """yunet:FILE | uniface:NAME | package.function (with --allow-module package); needed with input: detect."""
    faces: Literal["largest", "central", "all"] = "largest"
    """Which faces of a photograph count: the one with the largest box, the one closest to the middle, or all."""
    min_face_px: NonNegativeInt = 0
    """Faces whose box is narrower or lower do not count."""
    yunet: YuNetOptions = YuNetOptions()
    """Settings of yunet:FILE."""


DETECTION_KEYS = tuple(DetectionConfig.model_fields)


def require_input(section: "CropInputConfig", place: str = "dataset") -> None:
    """Raise ValueError where `input` and what it needs do not go together."""
    for kind, key in (("landmarks", "landmarks"), ("detect", "detector")):
        given = getattr(section, key) is not None
        if section.input == kind and not given:
            raise ValueError(f"{place}.{key} is needed with {place}.input: {kind}; name it")
        if section.input != kind and given:
            raise ValueError(
                f"{place}.{key} has no effect with {place}.input: {section.input}; set {place}.input: {kind} or remove "
                "it"
            )


_SEPARATORS = {"comma": ",", "semicolon": ";", "tab": "\t", "blank": " ", "\\t": "\t"}
Separator = Annotated[
    Literal[",", ";", "\t", " "], BeforeValidator(lambda v: _SEPARATORS.get(v, v) if isinstance(v, str) else v)
]


class ScoreColumns(StrictModel):
    """Which columns of a table are the name and the score: titles, or numbers from 1."""

    name: str | PositiveInt
    """Column of the image's name."""
    score: str | PositiveInt
    """Column of its score."""


class ScoreForm(StrictModel):
    """What a file of labels or scores holds, where it does not tell by itself."""

    columns: ScoreColumns | None = None
    """{name: TITLE, score: TITLE}, or numbers from 1; null: by their titles (docs/formats.md)."""
    separator: Separator | None = None
    """Between columns: comma, semicolon, tab or blank; null: found automatically."""
    decimal: Literal[".", ","] | None = None
    """Decimal mark; null: found automatically."""
    missing_value: float | None = None
    """A number that means no score, e.g. -1; such rows count as missing. null: none."""
    repeats: Literal["error", "mean", "min", "max"] = "error"
    """Different scores of one image: refuse the file, or take their mean, the lowest or the highest."""


class CropInputConfig(ImageInputConfig, DetectionConfig):
    """Images to run a network over."""

    loc: UserPath
    """Folder, image, list of paths, .tar, .zip, .rec, .bin, .parquet, or several: part-{000..099}.tar."""
    input: Literal["aligned", "landmarks", "detect"] = "aligned"
    """Crops that are already aligned, images with a landmark file, or photographs in which faces are to be found."""
    landmarks: UserPath | None = None
    """Landmark file of the images; needed with input: landmarks."""
    key_root: str | None = None
    """Prefix to strip from the names in the landmark file; null: found automatically."""
    on_missing: Literal["error", "skip"] = "error"
    """Images without landmarks: stop, or list them in failures.csv."""


class LoaderParams(StrictModel):
    """Arguments of one data loader."""

    batch_size: PositiveInt = 64
    """Images per step, all processes together."""
    shuffle: Flag = False
    """1: another order in every epoch, drawn from (seed, epoch)."""
    pin_memory: Flag = False
    """1: page-locked batches, for copies to a GPU that overlap with compute."""
    num_workers: int = Field(default=0, ge=0)
    """Decoding processes; results do not depend on it."""


class LoaderConfig(StrictModel):
    """One data loader."""

    params: LoaderParams = LoaderParams()
    """Its arguments."""
