"""Tell from a sample of the images whether they can be aligned crops, or the images that the landmarks were taken on.

Wrong inputs give numbers like right ones. So a seeded sample of 200 images is looked at before anything long starts: a
noticeable share that cannot be right is counted and named, more than half stops the run, unless `accept_unusual` says
that the images are meant to be so.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import numpy as np

from data.alignment import CROP_SIZE_PX, TEMPLATE_112, AlignmentError, estimate_similarity, outside_share
from data.checks.landmark_order import require_faces
from data.images.decode import ImageError
from data.tables.names import Names
from utils.config.sections import ImageInputConfig
from utils.errors import DataError

SAMPLE = 200
_NOTICEABLE = 0.05
_NEAR, _FAR = 0.44, 0.57
"""A face whose middle is less than _NEAR, or more than _FAR, of both sides away from the image's upper left corner lies
where that of scaled landmarks does. Of 6,921 photographs of LFW one does."""
_WIDEST = 0.5
"""Distance of the eyes, as a share of the image's side (the root of its area), that no crop of a face reaches."""
_SUSPECT = {"upper left": "upper right", "lower right": "lower left"}
"""Where the faces of landmarks lie that were taken on smaller, or on larger images, and the same in a mirror."""
_BESIDE_BOX, _BOX_HEIGHTS = 0.35, (0.42, 0.8)
"""How far from the middle of its box, and at which heights, as shares of its sides, no face lies."""
_CHANCE = 3
"""So many standard deviations are no chance."""
_BLACK, _ROOM = 0.5, 0.15
"""Share of a crop outside its image, and how much of it would lie inside if the face lay in the middle: a tight crop
of a face has no room for more."""


class LookedAt(Protocol):
    """What is asked of the images: an ImageSource has it."""

    location: str

    @property
    def names(self) -> Sequence[str] | Names:
        """Return what messages call the images."""
        ...

    def __len__(self) -> int: ...

    def size(self, row: int, exif: bool) -> tuple[int, int]:
        """Return (width, height) of an image; ImageError where there is none."""
        ...


class InputKeys(NamedTuple):
    """What the configuration calls things, for messages that name the way out."""

    landmarks: str
    """Key of the landmark file."""
    accept: str
    """Key of accept_unusual."""


@dataclass(frozen=True)
class CheckedInput:
    """Images with their landmarks, or aligned crops, as a script is about to use them."""

    source: LookedAt
    landmarks: np.ndarray | None
    """(N, 5, 2) px, NaN where an image has none; None: the images are aligned crops."""
    file: str | None
    """Where the landmarks come from."""
    cfg: ImageInputConfig
    keys: InputKeys

    def lines(self) -> list[str]:
        """Return a line on each noticeable share of images that cannot be right.

        Raises DataError where most of them cannot, unless cfg.accept_unusual.
        """
        if not len(self.source):
            return []
        if self.landmarks is None:
            return self._judged(self._crops)
        points = self.landmarks
        rows = np.flatnonzero(np.isfinite(points[:, 0, 0]))
        found = points if len(rows) == len(points) else points[rows]
        order = self._judged(lambda: require_faces(str(self.file), found))
        return order + self._judged(lambda: self._version(points, rows))

    def _judged(self, rule: Callable[[], list[str]]) -> list[str]:
        """Apply a rule; an error that the user accepts becomes a line."""
        try:
            return rule()
        except DataError as error:
            if not self.cfg.accept_unusual:
                raise DataError(f"{error}; or, if it is meant to be so, set {self.keys.accept}: 1") from None
            return [f"{error}; accepted by {self.keys.accept}"]

    def _crops(self) -> list[str]:
        """Tell photographs from aligned crops by their size."""
        sizes = self._sizes(np.arange(len(self.source)))
        other = [(row, size) for row, size in sizes if size != (CROP_SIZE_PX, CROP_SIZE_PX)]
        if not other:
            return []
        row, (width, height) = other[0]
        what = (
            f"{self.source.location}: {len(other)} of {len(sizes)} sampled images are no aligned crops of "
            f"{CROP_SIZE_PX}x{CROP_SIZE_PX} px, first {self.source.names[row]!r} of {width}x{height}"
        )
        return _verdict(len(other), len(sizes), what, f"photographs need a landmark file ({self.keys.landmarks})")

    def _version(self, points_N52: np.ndarray, rows: np.ndarray) -> list[str]:
        """Tell landmarks that were taken on another version of the images: larger, smaller, or cut out differently."""
        sizes = self._sizes(rows)
        found = _misplaced([points_N52[row] for row, _ in sizes], [size for _, size in sizes])
        if not found:
            return []
        at, reason = next(iter(found.items()))
        row, (width, height) = sizes[at]
        what = (
            f"{self.file}: {len(found)} of {len(sizes)} sampled faces do not lie in their images as faces do, first "
            f"{self.source.names[row]!r} of {width}x{height} px, where {reason}"
        )
        out = f"were they measured on images of another size? name the file of these images in {self.keys.landmarks}"
        return _verdict(len(found), len(sizes), what, out)

    def _sizes(self, rows: np.ndarray) -> list[tuple[int, tuple[int, int]]]:
        """Return (row, (width, height)) of a sample of the rows, without the images that cannot be read."""
        if len(rows) > SAMPLE:
            rows = np.sort(rows[np.random.default_rng(0).choice(len(rows), SAMPLE, replace=False)])
        return list(self._readable(rows))

    def _readable(self, rows: np.ndarray) -> Iterator[tuple[int, tuple[int, int]]]:
        for row in rows.tolist():
            try:
                yield row, self.source.size(row, self.cfg.exif)
            except ImageError:
                continue  # a failure with its reason, later


def _misplaced(faces: list[np.ndarray], sizes: list[tuple[int, int]]) -> dict[int, str]:
    """Return in order which faces do not lie in their images as faces do, and in what.

    A corner of the image is a reason only where more faces lie in it than chance puts there beyond the mirrored one:
    small faces lie anywhere in their photographs, those of scaled landmarks on one side.
    """
    found = {at: reason for at, face in enumerate(faces) if (reason := misplaced(face, sizes[at]))}
    corners = [None if at in found else _corner(face, sizes[at]) for at, face in enumerate(faces)]
    for corner, mirrored in _SUSPECT.items():
        here, there = corners.count(corner), corners.count(mirrored)
        if here > there + _CHANCE * np.sqrt(here + there):
            found |= {at: f"the face lies in the {corner} part" for at, one in enumerate(corners) if one == corner}
    return dict(sorted(found.items()))


def misplaced(points_52: np.ndarray, size: tuple[int, int]) -> str | None:
    """Say in what a face does not lie in its image of (width, height) as those of photographs and crops do."""
    points, sides = np.asarray(points_52, np.float64), np.array(size, np.float64)
    outside = np.count_nonzero(((points < -0.5) | (points > sides - 0.5)).any(axis=1))
    if outside >= 2:
        return f"{outside} of the 5 points lie outside"
    if np.linalg.norm(points[1] - points[0]) > _WIDEST * np.sqrt(sides.prod()):
        return "the eyes are more than half the image apart"
    try:
        matrix_23 = estimate_similarity(points, TEMPLATE_112)
    except AlignmentError:
        return None  # a failure with its reason, later
    share = outside_share(matrix_23, size[::-1])
    if share <= _BLACK or share - outside_share(_centred(matrix_23, sides), size[::-1]) <= _ROOM:
        return None
    return f"{share:.0%} of the crop lie outside"


def _centred(matrix_23: np.ndarray, sides_2: np.ndarray) -> np.ndarray:
    """Return the transform that brings the middle of the image to the middle of the crop, turned and scaled alike."""
    linear_22 = matrix_23[:, :2]
    return np.column_stack([linear_22, (CROP_SIZE_PX - 1) / 2 - linear_22 @ (sides_2 - 1) / 2])


def _corner(points_52: np.ndarray, size: tuple[int, int]) -> str | None:
    """Name the corner that the middle of a face is in, or would be in after mirroring the image."""
    x, y = np.asarray(points_52, np.float64).mean(axis=0) / size
    if y < _NEAR and not _NEAR <= x <= 1 - _NEAR:
        return "upper left" if x < _NEAR else "upper right"
    if y > _FAR and not 1 - _FAR <= x <= _FAR:
        return "lower right" if x > _FAR else "lower left"
    return None


def require_about_faces(path: str, boxes_N4: np.ndarray, points_N52: np.ndarray) -> list[str]:
    """Return a line where a noticeable share of boxes x, y, w, h does not lie about its face; DataError where most.

    The middle of the five points lies in the middle of a detector's box. In 500 photographs of LFW, published landmarks
    and YuNet's boxes, 90 % lie at .33 to .63 of the width and .51 to .60 of the height; they get no line, nor do boxes
    .8 to 2 times as large. Of the same boxes as corners 479 fail, of centres taken for corners all.
    """
    known = np.flatnonzero(np.isfinite(points_N52[:, 0, 0]) & np.isfinite(boxes_N4[:, 0]))
    middle, boxes = points_N52[known].mean(axis=1), boxes_N4[known]
    x, y = ((middle - boxes[:, :2]) / np.maximum(boxes[:, 2:], np.finfo(np.float32).tiny)).T
    off = int(np.count_nonzero((np.abs(x - 0.5) > _BESIDE_BOX) | (y < _BOX_HEIGHTS[0]) | (y > _BOX_HEIGHTS[1])))
    what = f"{path}: {off} of {len(known)} boxes do not lie about the landmarks of their faces"
    out = "write x, y, w, h of the upper left corner and the size, or corners under the titles x1, y1, x2, y2"
    return _verdict(off, len(known), what, out)


def _verdict(count: int, total: int, what: str, way_out: str) -> list[str]:
    """Raise where more than half fails, return a line where a noticeable share does."""
    if 2 * count > total:
        raise DataError(f"{what}; {way_out}")
    return [f"{what}; {way_out}"] if count > _NOTICEABLE * total else []
