"""The preprocessing contract: what a network was trained to see travels with its weights."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Literal

from utils.errors import ConfigError, ContractError
from utils.files import atomic_write
from utils.outside.reading import reading


@dataclass(frozen=True)
class Reading:
    """Say which of a network's outputs counts, and what its quality is."""

    output: str | int | None = None
    """Name or number of the output; None: the embedding is the first that holds several numbers per image."""
    quality: Literal["head", "output", "length"] = "head"
    """Of its quality head or its own quality output; the one number of the output itself; the embedding's length."""


@dataclass(frozen=True)
class InputContract:
    """Describe the crop a network expects: a square RGB image, scaled as (pixel / 255 - mean) / std."""

    size_px: int = 112
    channels: str = "RGB"
    mean: tuple[float, float, float] = (0.5, 0.5, 0.5)
    std: tuple[float, float, float] = (0.5, 0.5, 0.5)
    template: str = "arcface_112"
    landmark_order: str = "left_eye right_eye nose left_mouth right_mouth"

    @classmethod
    def from_transform(cls, transform: Mapping[str, Any], channels: str = "RGB") -> "InputContract":
        """Read the contract off a `transform` block of Resize, ToTensor and Normalize, in that order, and `channels`.

        `transform` maps trans_N to a ModuleSpec. Anything else than the three is refused.
        """
        values: dict[str, Any] = {"channels": channels}
        order = []
        for key, spec in transform.items():
            name = spec.module.removeprefix("torchvision.transforms.")
            params = dict(spec.params)
            if name == "Resize":
                values["size_px"] = _square(key, params.pop("size", None))
                params.pop("antialias", None)
                params.pop("interpolation", None)
            elif name == "Normalize":
                for field in ("mean", "std"):
                    values[field] = _triple(f"{key}.params.{field}", params.pop(field, None), field == "std")
            elif name != "ToTensor":
                raise ConfigError(
                    f"transform.{key}: {spec.module} is not understood; "
                    "the block takes Resize, ToTensor and Normalize of torchvision.transforms"
                )
            if params:
                raise ConfigError(f"transform.{key}: {name} does not take {sorted(params)[0]!r} here; remove it")
            order.append(name)
        if order != ["Resize", "ToTensor", "Normalize"]:
            raise ConfigError(f"transform: expected Resize, ToTensor, Normalize in this order, found {order}")
        return cls(**values)

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return {key: list(value) if isinstance(value, tuple) else value for key, value in asdict(self).items()}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any], path: str | Path = "contract") -> "InputContract":
        """Build the contract from JSON values; keys this version does not know are an error."""
        known = {field.name for field in fields(cls)}
        if unknown := sorted(set(values) - known):
            raise ContractError(f"{path}: unknown entry {unknown[0]!r} in the preprocessing contract; update the code")
        read: dict[str, Any] = {key: tuple(v) if isinstance(v, list) else v for key, v in values.items()}
        return cls(**read)

    def require(self, saved: "InputContract", path: str | Path) -> None:
        """Raise ContractError unless `saved`, read from `path`, is this contract."""
        for field in fields(self):
            ours, theirs = getattr(self, field.name), getattr(saved, field.name)
            if ours != theirs:
                raise ContractError(
                    f"{path}: the weights were trained with {field.name} = {theirs}, the configuration feeds "
                    f"{field.name} = {ours}; use the model configuration the weights were trained with"
                )


def _square(key: str, size: Any) -> int:
    sides: list[Any] = list(size) if isinstance(size, list | tuple) else [size]
    valid = all(isinstance(side, int) and not isinstance(side, bool) and side > 0 for side in sides)
    if not valid or len(set(sides)) != 1 or len(sides) > 2:
        raise ConfigError(f"transform.{key}.params.size: expected one side in pixels or two equal ones, found {size!r}")
    return sides[0]


def _triple(key: str, value: Any, positive: bool) -> tuple[float, float, float]:
    values = list(value) if isinstance(value, list | tuple) else [value] * 3
    numeric = all(isinstance(v, int | float) and not isinstance(v, bool) for v in values)
    if len(values) == 1 and numeric:
        values *= 3
    if len(values) != 3 or not numeric or (positive and min(values) <= 0):
        wanted = "three positive numbers" if positive else "three numbers"
        raise ConfigError(f"transform.{key}: expected {wanted}, found {value!r}")
    first, second, third = (float(v) for v in values)
    return first, second, third


def sidecar(weights: str | Path) -> Path:
    """Return the contract file beside a weights file: aikd-best.pth -> aikd-best.json."""
    return Path(weights).with_suffix(".json")


def save_contract(contract: InputContract, weights: str | Path, **facts: Any) -> None:
    """Write the contract, and further facts about the run, beside `weights`."""
    with atomic_write(sidecar(weights), "w") as stream:
        json.dump({"contract": contract.to_dict(), **facts}, stream, indent=2, sort_keys=True)
        stream.write("\n")


def load_contract(weights: str | Path) -> InputContract | None:
    """Read the contract beside `weights`, or None when there is none."""
    path = sidecar(weights)
    if not path.is_file():
        return None
    with reading(path, "not a preprocessing contract", "remove it or restore it", ContractError):
        return InputContract.from_dict(json.loads(path.read_text(encoding="utf-8"))["contract"], path)
