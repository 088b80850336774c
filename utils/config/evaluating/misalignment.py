"""Which crops an evaluation looks at, and files that hold numbers of each of these views."""

import re
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, NonNegativeFloat, NonNegativeInt, PositiveFloat

from utils.config.loading import StrictModel, UserPath
from utils.config.sections import Border

ALIGNED, SECOND, BOX = "aligned", "second_landmarks", "box"
"""Views without a perturbation: true landmarks, those of another detector, the square about a detector's box."""
_MISALIGNED = re.compile(r"p=(\d+(?:\.\d+)?)/seed=(\d+)")


def misaligned_key(p: float, seed: int) -> str:
    """Name the view whose landmarks are moved by U[-p, p] under a seed; crops are written to a folder of this name."""
    return f"p={p:g}/seed={seed}"


def _view_key(name: Any) -> str:
    if name in (ALIGNED, SECOND, BOX):
        return name
    found = _MISALIGNED.fullmatch(name) if isinstance(name, str) else None
    if found is None:
        raise ValueError(f"{str(name)[:60]!r} is no view; expected {ALIGNED}, p=4/seed=1, {SECOND} or {BOX}")
    return misaligned_key(float(found[1]), int(found[2]))


def _by_view(value: Any) -> Any:
    """Take one file for that of the aligned crops; write the names of the views in one way."""
    if not isinstance(value, dict):
        return {ALIGNED: value}
    if ALIGNED not in value:
        raise ValueError(f"names no file of the view {ALIGNED}, which every other one is compared with")
    return {_view_key(name): file for name, file in value.items()}


def _lists_by_view(value: Any) -> Any:
    views = value if isinstance(value, dict) else {ALIGNED: value}
    return _by_view({view: [files] if isinstance(files, str) else files for view, files in views.items()})


ViewFileLists = Annotated[dict[str, tuple[UserPath, ...]], BeforeValidator(_lists_by_view)]
"""VIEW: one file or several; without a view they are those of the aligned crops."""
ViewFiles = Annotated[dict[str, UserPath], BeforeValidator(_by_view)]
"""VIEW: file; one file alone is that of the aligned crops."""


class MisalignmentConfig(StrictModel):
    """The misalignment protocol; the paper does not define its own, so this one is named and fixed here."""

    p: tuple[NonNegativeFloat, ...] = (0, 2, 4, 6, 8, 10)
    """Half-widths of the uniform offset on each landmark coordinate, in pixels of the 112x112 template."""
    seeds: Annotated[tuple[NonNegativeInt, ...], Field(min_length=1)] = (1, 2, 3)
    """One draw per image for each seed; figures are means over them."""
    apply: Annotated[tuple[Literal["quality", "both"], ...], Field(min_length=1)] = ("quality", "both")
    """Who sees the misaligned crops: the quality methods only, or the recognition model too."""
    border: Border = "black"
    """What a misaligned crop (p > 0) shows outside its image: black, the nearest pixel, or the image mirrored."""
    box: PositiveFloat | None = None
    """Evaluate square crops about the detector's boxes too, without alignment: their side as a multiple of the longer
    side of the box; null: none."""
    boxes: dict[str, UserPath] = Field(default_factory=dict)
    """DATASET: file of the boxes, as landmark detection writes it; else that of second_landmarks, else of landmarks."""
    second_landmarks: dict[str, UserPath] = Field(default_factory=dict)
    """DATASET: landmark file of another detector, evaluated as a condition of its own."""
