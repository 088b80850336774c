"""The contact sheet of task=check: a sample of what training would see, decoded, aligned, drawn with its landmarks."""

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np

from data.alignment import CROP_SIZE_PX, TEMPLATE_112, AlignmentError, align, checked_landmarks, landmarks_of_crop
from data.images.decode import ImageError, decode_rgb
from data.index.build import FaceIndex
from data.tables.scores import write_failures
from utils.config.prepare import LookConfig
from utils.config.sections import DecodeConfig
from utils.files import atomic_write

SHEET = "check.png"
COLUMNS = 12
FACES = 2 * COLUMNS
"""Faces of the sample that are drawn; of the lowest and highest labels COLUMNS each."""
COLOURS = ((230, 25, 25), (25, 90, 255), (40, 200, 60), (255, 200, 0), (230, 60, 230))
"""Of the points in template order: red, blue, green, yellow, magenta."""
_GAP_PX, _CAPTION_PX, _THREADS = 4, 18, 2
_LEGEND = "red: eye on the image's left, blue: eye on its right, green: nose, yellow: mouth left, magenta: mouth right"


class Seen(NamedTuple):
    """What one image shows."""

    row: int
    image: np.ndarray | None = None
    """The whole image in a square tile, with its landmarks."""
    crop: np.ndarray | None = None
    """The aligned crop, with the places its landmarks should have."""
    reason: str | None = None
    """Why it gives no crop."""


@dataclass(frozen=True)
class Look:
    """Look at images of an index."""

    index: FaceIndex
    decode: DecodeConfig

    def sample(self, cfg: LookConfig) -> np.ndarray:
        """Return the rows to decode, ascending; the same for the same seed and list of images."""
        count = len(self.index)
        if cfg.sample is None or cfg.sample >= count:
            return np.arange(count)
        return np.sort(np.random.default_rng(cfg.seed).choice(count, cfg.sample, replace=False))

    def __call__(self, row: int) -> Seen:
        """Decode an image, align its face, and draw both."""
        try:
            encoded = self.index.source.read(row)
            image = decode_rgb(encoded, exif=self.decode.exif, max_pixels=self.decode.max_pixels)
            if self.index.landmarks is None:
                points = landmarks_of_crop(image)
            else:
                points = checked_landmarks(self.index.landmarks[row], image)
            return Seen(row, _whole(image, points), _with_points(align(image, points), TEMPLATE_112))
        except (ImageError, AlignmentError) as error:
            return Seen(row, reason=str(error))

    def at(self, rows: Sequence[int], keep: set[int]) -> Iterator[Seen]:
        """Look at the rows, in order; only those in `keep` and those that fail are given."""
        with ThreadPoolExecutor(_THREADS, "decode") as pool:
            for start in range(0, len(rows), 256):
                for seen in pool.map(self, rows[start : start + 256]):
                    if seen.reason is not None or seen.row in keep:
                        yield seen


def look(index: FaceIndex, decode: DecodeConfig, cfg: LookConfig, folder: Path) -> list[str]:
    """Decode a sample, write check.png and failures.csv, and return the lines of the report."""
    one = Look(index, decode)
    sample = one.sample(cfg)
    drawn = sample[np.unique(np.linspace(0, len(sample) - 1, min(FACES, len(sample))).astype(np.int64))]
    groups = [("sample, each image above its aligned crop", drawn)]
    if index.labels is not None:
        order = np.argsort(index.labels, kind="stable")
        groups += [("lowest labels", order[:COLUMNS]), ("highest labels", order[::-1][:COLUMNS])]
    shown = {int(row) for _, rows in groups for row in rows}
    rows = sorted({*sample.tolist(), *shown})
    seen = {each.row: each for each in one.at(rows, shown)}
    reasons = {row: each.reason for row, each in seen.items() if each.reason is not None}
    write_failures(folder, index.names, reasons)
    with atomic_write(folder / SHEET) as stream:
        _, encoded = cv2.imencode(".png", cv2.cvtColor(_sheet(groups, seen, index.labels), cv2.COLOR_RGB2BGR))
        stream.write(encoded.tobytes())
    lines = [f"looked at {len(rows):,} of {len(index):,} images: {folder / SHEET}"]
    if reasons:
        first = min(reasons)
        share = f"{len(reasons):,} of {len(rows):,} images give no crop"
        lines.append(
            f"images: {share}, first: {index.names[first]!r} ({reasons[first]}); see {folder / 'failures.csv'}"
        )
    return lines


def _whole(image: np.ndarray, points_52: np.ndarray) -> np.ndarray:
    """Fit an image into a square tile and draw its landmarks where they are."""
    scale = CROP_SIZE_PX / max(image.shape[:2])
    size = tuple(max(1, round(side * scale)) for side in image.shape[1::-1])
    small = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
    tile = np.full((CROP_SIZE_PX, CROP_SIZE_PX, 3), 255, np.uint8)
    tile[: small.shape[0], : small.shape[1]] = small
    return _with_points(tile, points_52 * scale)


def _with_points(tile: np.ndarray, points_52: np.ndarray) -> np.ndarray:
    tile = np.ascontiguousarray(tile)
    for (x, y), colour in zip(np.clip(points_52, -9999, 9999).round().astype(int).tolist(), COLOURS, strict=True):
        cv2.circle(tile, (x, y), 2, colour, -1)
    return tile


def _sheet(groups: list[tuple[str, np.ndarray]], seen: dict[int, Seen], labels: np.ndarray | None) -> np.ndarray:
    """Join captions and rows of tiles; those of the lowest and highest labels carry the label."""
    bands = [_caption(_LEGEND)]
    for number, (title, rows) in enumerate(groups):
        bands.append(_caption(title))
        for start in range(0, len(rows), COLUMNS):
            line = [seen[int(row)] for row in rows[start : start + COLUMNS]]
            if number == 0:
                bands.append(_line([each.image for each in line]))
            bands.append(_line([each.crop for each in line]))
            if number > 0 and labels is not None:
                bands.append(_caption(*(f"{labels[each.row]:.4g}" for each in line)))
    return np.vstack(bands)


def _line(tiles: Sequence[np.ndarray | None]) -> np.ndarray:
    """Put tiles side by side; grey stands for an image without a crop."""
    step = CROP_SIZE_PX + _GAP_PX
    line = np.full((step, step * COLUMNS, 3), 255, np.uint8)
    for column, tile in enumerate(tiles):
        place = slice(column * step, column * step + CROP_SIZE_PX)
        line[:CROP_SIZE_PX, place] = 160 if tile is None else tile
    return line


def _caption(*texts: str) -> np.ndarray:
    """Write one text, or one below each column."""
    step = CROP_SIZE_PX + _GAP_PX
    line = np.full((_CAPTION_PX, step * COLUMNS, 3), 255, np.uint8)
    for column, text in enumerate(texts):
        place = (column * step + 2, _CAPTION_PX - 5)
        cv2.putText(line, text, place, cv2.FONT_HERSHEY_SIMPLEX, 0.42, (30, 30, 30), 1, cv2.LINE_AA)
    return line
