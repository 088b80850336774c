"""The page to look at beside the scores or labels of a folder."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np

from data.samples.crops import FaceCrops
from data.samples.detected import DetectedCrops, FoundFaces
from data.samples.loader import crop_batches
from data.tables.scores import PAGE
from evaluation.report.score_page import ScorePage
from jobs.image_pass import ImagePass
from jobs.journal import versions
from jobs.journal_lines import Progress
from utils import distributed

_JPEG_QUALITY = 85
_AT_ONCE = 16


class _Asked(NamedTuple):
    """What the first process asks of all, each of which has containers of its own."""

    rows: np.ndarray
    """(R,) images to be shown, as they are counted over all containers."""
    found: FoundFaces | None
    """Their faces, where faces were looked for: nothing is looked for twice."""


def write_page(
    images: ImagePass, title: str, scored: tuple[np.ndarray, np.ndarray], state: Progress, facts: Mapping[str, Any]
) -> list[Path]:
    """Write scores.html, where at least one face has a score, and return its path.

    The faces are the crops that the network saw. scored: the image (R,) of each, ascending, and its number (R,).
    Where containers were dealt to the processes, the others call `help_with_page` meanwhile.
    """
    if not len(scored[0]):
        help_with_page(images)
        return []
    made_with = {**facts, **images.journal.request, "versions": versions()}
    page = ScorePage(title, images.names, *scored, state.reasons, made_with)
    path = images.journal.folder / PAGE

    def jpegs_of(rows: np.ndarray) -> dict[int, list[bytes]]:
        found = None
        if isinstance(images.crops, DetectedCrops):
            seen, values = state.records()
            these = np.isin(seen, rows)
            found = FoundFaces(np.searchsorted(rows, seen[these]), values[these, 1:], {})
        deal = images.deal
        return _jpegs(images, _Asked(rows if deal is None or deal.sorted is None else deal.sorted.rows[rows], found))

    page.write(path, pictures(page, jpegs_of))
    return [path]


def help_with_page(images: ImagePass) -> None:
    """Decode those faces of the page that lie in the containers of this process; the first process may want none."""
    if images.deal is not None:
        _jpegs(images, None)


def _jpegs(images: ImagePass, asked: _Asked | None) -> dict[int, list[bytes]]:
    """Return the JPEGs of the faces of each wanted image, counted from 0."""
    deal = images.deal
    asked = asked if deal is None else distributed.from_main(asked)
    if asked is None:
        return {}
    here = asked.rows if deal is None else deal.here(asked.rows)
    mine = np.flatnonzero(here >= 0) if deal is None or deal.is_parted or distributed.is_main() else here[:0]
    crops = images.crops.take(here[mine])
    if isinstance(crops, DetectedCrops):
        crops = replace(crops, known=asked.found, places=mine)
    found = {int(mine[place]): faces for place, faces in jpegs(crops).items()}
    if deal is not None:
        for some in distributed.from_each(found):
            found |= some
    return found


def jpegs(crops: FaceCrops | DetectedCrops) -> dict[int, list[bytes]]:
    """Return the JPEGs of the crops of each image, without the images that can no longer be read."""
    found: dict[int, list[bytes]] = {}
    for batch in crop_batches(crops, _AT_ONCE):
        for place, image in zip(batch.rows, batch.images.numpy(), strict=True):
            _, encoded = cv2.imencode(".jpg", image[:, :, ::-1], [cv2.IMWRITE_JPEG_QUALITY, _JPEG_QUALITY])
            found.setdefault(place, []).append(encoded.tobytes())
    return found


def pictures(page: ScorePage, jpegs_of: Callable[[np.ndarray], Mapping[int, list[bytes]]]) -> dict[int, bytes]:
    """Return the JPEG of each face that the page shows, of those that can still be read.

    jpegs_of: images (R,) -> for those of them that can be read, counted from 0, the JPEGs of their faces.
    """
    wanted = page.shown()
    rows = np.unique(page.rows[wanted])
    found, shown = jpegs_of(rows), {}
    for face in wanted.tolist():
        row = page.rows[face]
        faces, number = found.get(int(np.searchsorted(rows, row)), []), face - int(np.searchsorted(page.rows, row))
        if number < len(faces):
            shown[face] = faces[number]
    return shown
