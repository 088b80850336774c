"""The page to look at beside the scores or labels of a folder."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from data.samples.crops import FaceCrops
from data.samples.detected import DetectedCrops, FoundFaces
from data.samples.loader import crop_batches
from data.tables.scores import PAGE
from evaluation.report.score_page import ScorePage
from jobs.image_pass import ImagePass
from jobs.journal import Progress, versions

_JPEG_QUALITY = 85
_AT_ONCE = 16


def write_page(
    images: ImagePass, title: str, scored: tuple[np.ndarray, np.ndarray], state: Progress, facts: Mapping[str, Any]
) -> Path:
    """Write scores.html and return its path; the faces are the crops that the network saw.

    scored: the image (R,) of each face, ascending, and its number (R,).
    """
    made_with = {**facts, **images.journal.request, "versions": versions()}
    page = ScorePage(title, images.crops.names, *scored, state.reasons, made_with)
    path = images.journal.folder / PAGE
    crops = images.crops
    if isinstance(crops, DetectedCrops):  # nothing is looked for twice
        rows, values = state.records()
        crops = replace(crops, known=FoundFaces(rows, values[:, 1:], {}), places=None)
    page.write(path, pictures(crops, page))
    return path


def pictures(crops: FaceCrops | DetectedCrops, page: ScorePage) -> dict[int, bytes]:
    """Return the JPEG of each face that the page shows; those of a file that can no longer be read are left out."""
    wanted = page.shown()
    rows, found, last = np.unique(page.rows[wanted]), {}, (-1, -1)
    for batch in crop_batches(crops.take(rows), _AT_ONCE):
        for place, image in zip(batch.rows, batch.images.numpy(), strict=True):
            row = int(rows[place])
            last = (row, last[1] + 1) if row == last[0] else (row, int(np.searchsorted(page.rows, row)))
            _, encoded = cv2.imencode(".jpg", image[:, :, ::-1], [cv2.IMWRITE_JPEG_QUALITY, _JPEG_QUALITY])
            found[last[1]] = encoded.tobytes()
    return {int(face): found[face] for face in wanted if face in found}
