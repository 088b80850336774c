"""The images a run looks at; where faces have to be found first, what an earlier run found in them is used again.

landmarks.csv lies beside the scores or labels, landmarks.json says of which images and by which detector it is.
"""

import json
import logging
import zlib
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from data.detectors.registry import open_finder
from data.samples.crops import FaceCrops, open_crops, require_usual
from data.samples.detected import DetectedCrops, FoundFaces
from data.sources.base import ImageSource
from data.sources.dealt import Deal, DealtSource
from data.sources.registry import open_dealt, open_source
from data.sources.shards import is_pattern
from data.tables.faces import LANDMARKS_FILE, FaceTable, read_faces, write_faces
from data.tables.names import Names
from jobs.image_pass import NETWORK_FAILED
from jobs.journal import PARTIAL
from utils.allowed import AllowedModules
from utils.config.sections import CropInputConfig
from utils.files import atomic_write, sha256_file
from utils.requests import first_difference

logger = logging.getLogger(__name__)

FACTS_FILE = "landmarks.json"
_PASSING = (NETWORK_FAILED, "cannot be read")
"""Reasons that say nothing about the faces of an image."""


def open_images(
    cfg: CropInputConfig, allowed: AllowedModules, source: ImageSource | None = None
) -> FaceCrops | DetectedCrops:
    """Open the images of a run, and what says where the faces are in them: crops, a landmark file, a detector."""
    if cfg.input != "detect":
        crops = open_crops(cfg, source)
        require_usual(crops)
        return crops
    finder = open_finder(cfg, allowed)
    return DetectedCrops(open_source(cfg.loc, cfg.names) if source is None else source, cfg, finder)


def deal_containers(location: str, names: str | None, folder: str) -> Deal | None:
    """Deal several containers to the processes, all of which call this; None where each has to know all names.

    So it is with a list of the images' `names`. `folder` is that of the results, which they share.
    """
    if not is_pattern(location) or names is not None:
        return None
    return open_dealt(location, Path(folder) / PARTIAL)


def with_known_faces(crops: FaceCrops | DetectedCrops, folder: str) -> FaceCrops | DetectedCrops:
    """Return the crops by the faces that an earlier run into `folder` found in these very images, if there are any."""
    if isinstance(crops, FaceCrops):
        return crops
    known = _kept(Path(folder), crops)
    if known is not None:
        logger.info(f"{Path(folder) / LANDMARKS_FILE}: used again, its images and the detector are the same")
    return replace(crops, known=known, places=None)


def stale_faces(crops: FaceCrops | DetectedCrops) -> tuple[str, ...]:
    """Return the files of an earlier run that do not belong to these images."""
    looked_for = isinstance(crops, DetectedCrops) and crops.known is None
    return (LANDMARKS_FILE, FACTS_FILE) if looked_for else ()


def keep_faces(folder: Path, crops: DetectedCrops, names: Names, found: FoundFaces) -> None:
    """Write landmarks.csv and landmarks.json, unless those of an earlier run hold the same; `names` are of all images.

    What an earlier run knew of the containers of one process is no reason to leave it at that.
    """
    path, reasons = folder / LANDMARKS_FILE, _lasting(found.reasons)
    known = crops.known
    if known is not None and known.reasons == reasons and len(known.rows) == len(found.rows):
        return
    (folder / FACTS_FILE).unlink(missing_ok=True)
    write_faces(path, FaceTable(names.take(found.rows), found.faces), crops.cfg.faces == "all")
    mark_kept(folder, crops, {names[row]: reason for row, reason in reasons.items()})


def mark_kept(folder: Path, crops: DetectedCrops, reasons: Mapping[str, str] = MappingProxyType({})) -> None:
    """Write landmarks.json: of which images, and by which detector, the landmarks.csv beside it is."""
    content = {"facts": _facts(crops), "sha256": sha256_file(folder / LANDMARKS_FILE), "reasons": dict(reasons)}
    content = json.loads(json.dumps(content))
    with atomic_write(folder / FACTS_FILE, "w") as stream:
        json.dump({**content, "crc32": _crc32(content)}, stream)


def _crc32(content: dict[str, Any]) -> int:
    return zlib.crc32(json.dumps(content).encode())


def _lasting(reasons: dict[int, str]) -> dict[int, str]:
    return {row: reason for row, reason in reasons.items() if not reason.startswith(_PASSING)}


def _facts(crops: DetectedCrops) -> dict[str, Any]:
    """Return everything that decides which faces are found where."""
    decode = {"exif": crops.cfg.exif, "max_pixels": crops.cfg.max_pixels}
    return {"detection": crops.finder.identity, "decode": decode, "images_sha256": crops.source.fingerprint()}


def is_kept(folder: Path, crops: DetectedCrops) -> bool:
    """Tell whether landmarks.csv in `folder` is of these very images and by the same detector; log why not."""
    return _content(folder, crops) is not None


def _content(folder: Path, crops: DetectedCrops) -> dict[str, Any] | None:
    path = folder / LANDMARKS_FILE
    if not path.exists():
        return None
    try:
        content = json.loads((folder / FACTS_FILE).read_text(encoding="utf-8"))
        if content.pop("crc32") != _crc32(content):
            raise ValueError("damaged")
        difference = first_difference(content["facts"], json.loads(json.dumps(_facts(crops))))
        changed = "it was changed" if content["sha256"] != sha256_file(path) else None
        why = f"{difference[0]} differs" if difference else changed
    except Exception:  # whatever the JSON in its place holds
        why = "nothing says what it was made from"
    if why is None:
        return content
    logger.info(f"{path}: not used again, {why}")
    return None


def _kept(folder: Path, crops: DetectedCrops) -> FoundFaces | None:
    """Return what an earlier run found in these very images; None where it is not there, or not whole."""
    content = _content(folder, crops)
    if content is None:
        return None
    try:
        table = read_faces(folder / LANDMARKS_FILE)
        reasons = {str(name): str(reason) for name, reason in content["reasons"].items()}
        without = _rows(Names.from_strings(reasons), crops.names)
    except (OSError, ValueError, KeyError, AttributeError, pa.ArrowException):
        return None
    rows = _rows(table.names, crops.names)
    if not isinstance(crops.source, DealtSource) and ((rows < 0).any() or (without < 0).any()):
        return None
    told = zip(without.tolist(), reasons.values(), strict=True)
    here = np.flatnonzero(rows >= 0)
    here = here[np.argsort(rows[here], kind="stable")]  # landmarks.csv has the order of all names
    return FoundFaces(rows[here], table.faces[here], {row: reason for row, reason in told if row >= 0})


def _rows(wanted: Names, names: Names) -> np.ndarray:
    """Return the row of each name, -1 for those that are not there."""
    return pc.index_in(wanted.to_arrow(), value_set=names.to_arrow()).fill_null(-1).to_numpy().astype(np.int64)
