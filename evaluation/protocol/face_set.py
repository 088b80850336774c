"""A data set of an evaluation: its pairs, joined with the images they name."""

import logging
from dataclasses import dataclass, replace

import numpy as np

from data.alignment import box_landmarks
from data.checks.inputs import InputKeys, require_about_faces
from data.index.identities import find_identities, folder_remarks
from data.samples.crops import FaceCrops, open_crops, require_usual
from data.sources.memory import MemorySource
from data.tables.boxes import read_boxes
from data.tables.join import join
from data.tables.name_lists import read_names
from data.tables.names import Names
from evaluation.pairs.lists import Side, reference_probe_pairs
from evaluation.pairs.readers import read_pairs
from evaluation.pairs.sets import Generation, PairSet, pairs_from_identities, without_repeats
from utils.config.evaluate import EvaluateConfig, PairsConfig
from utils.config.sections import CropInputConfig
from utils.errors import DataError
from utils.present import present

logger = logging.getLogger("evaluate")


@dataclass(frozen=True)
class FaceSet:
    """Hold a data set: its pairs and, where it has images, their crops and the row of each name in them."""

    name: str
    pairs: PairSet
    key_root: str | None
    crops: FaceCrops | None = None
    rows: np.ndarray | None = None
    second: FaceCrops | None = None
    """The same crops by the landmarks of another detector."""
    box: FaceCrops | None = None
    """The squares about the boxes of a detector."""
    remarks: tuple[str, ...] = ()
    """What was left out of the pairs."""

    def crops_of(self, alignment: str) -> FaceCrops:
        """Return the crops of a view."""
        return present({"second_landmarks": self.second, "box": self.box}.get(alignment, self.crops))

    def column(self, names: Names, values: np.ndarray) -> np.ndarray:
        """Join a table of names and values to the names of the pairs; NaN where it has none."""
        rows = join(self.pairs.names, names, self.key_root).rows
        column = np.full((len(rows), *values.shape[1:]), np.nan, dtype=values.dtype)
        column[rows >= 0] = values[rows[rows >= 0]]
        return column


def open_faces(name: str, cfg: PairsConfig, seed: int, names: Names | None = None) -> FaceSet:
    """Read the pairs and list the images. `names`: of embeddings, from which identities are known without a root."""
    crops = None
    if cfg.root is not None:
        crops = open_crops(_input(cfg, cfg.root, cfg.landmarks))
        names = crops.names
    draw = Generation(cfg.mated_per_identity, cfg.non_mated, seed)
    if cfg.format == "identities":
        if names is None:
            raise DataError(
                f"datasets.{name}: identities come from folders; name root, or embeddings with folder names"
            )
        found = find_identities(names, cfg.identity)
        for remark in folder_remarks(found, cfg.identity, f"datasets.{name}.identity"):
            logger.warning(f"{name}: {remark}")
        pairs = pairs_from_identities(list(names), [found.classes[row] for row in found.rows], draw)
    elif cfg.format == "reference_probe":
        sides = [_side(present(path), cfg) for path in (cfg.reference, cfg.probe)]
        pairs = reference_probe_pairs(sides[0], sides[1], cfg.non_mated, seed)
    else:
        pairs = read_pairs(present(cfg.pairs), cfg.format, cfg.root, draw)
    pairs, left_out = without_repeats(pairs)
    rows = None if crops is None else join(pairs.names, crops.names, cfg.key_root).rows
    if rows is not None and not (rows >= 0).any():
        listed = f"images of {cfg.pairs or cfg.probe}, first {pairs.names[0]!r}"
        way_out = f"fix datasets.{name}.root or key_root"
        raise DataError(f"datasets.{name}: none of the {len(rows)} {listed}, is below {cfg.root}; {way_out}")
    remarks = tuple(f"datasets.{name}: {remark}" for remark in left_out)
    return FaceSet(name, pairs, cfg.key_root, crops, rows, remarks=remarks)


def _side(path: str, cfg: PairsConfig) -> Side:
    """Read one list of images, with who is on them."""
    names = read_names(path)
    if not len(names):
        raise DataError(f"{path}: holds no name; expected one image in each line")
    found = find_identities(names, cfg.identity)
    return Side(list(names), [found.classes[row] for row in found.rows])


def open_views(cfg: EvaluateConfig, name: str, names: Names | None = None) -> FaceSet:
    """Open a data set with all that its misaligned views need; `names` as in open_faces."""
    section, views = cfg.datasets[name], cfg.misalignment
    faces = open_faces(name, section, cfg.base.seed, names)
    if views is not None and name in views.second_landmarks:
        faces = with_second_landmarks(faces, section, views.second_landmarks[name])
    if views is not None and views.box is not None:
        faces = with_boxes(faces, section, views.boxes.get(name) or views.second_landmarks.get(name), views.box)
    return faces


def with_images(faces: FaceSet, cfg: PairsConfig) -> FaceSet:
    """Return the set with images to run networks on; those inside a .bin are in memory with its pairs."""
    if faces.crops is not None:
        return faces
    if faces.pairs.images is None:
        raise DataError(f"datasets.{faces.name}.root is needed to run a network on its images; name the folder")
    path = present(cfg.pairs)
    source = MemorySource(path, faces.pairs.names, faces.pairs.images)
    return replace(faces, crops=FaceCrops(source, _input(cfg, path, None)), rows=np.arange(len(source)))


def with_second_landmarks(faces: FaceSet, cfg: PairsConfig, landmarks: str) -> FaceSet:
    """Return the set with the landmarks of another detector joined."""
    if cfg.root is None or cfg.landmarks is None:
        raise DataError(
            f"misalignment.second_landmarks.{faces.name}: needs images with landmarks of their own; "
            f"name datasets.{faces.name}.root and landmarks"
        )
    second = open_crops(_input(cfg, cfg.root, landmarks))
    return replace(faces, second=second)


def require_usual_images(faces: FaceSet, cfg: PairsConfig) -> None:
    """Warn of images or landmarks that cannot be right; DataError where most are. For sets that networks run on."""
    section = f"datasets.{faces.name}"
    keys = InputKeys(f"{section}.landmarks", f"{section}.accept_unusual")
    require_usual(present(with_images(faces, cfg).crops), keys)
    if faces.second is not None:
        key = f"misalignment.second_landmarks.{faces.name}"
        require_usual(faces.second, keys._replace(landmarks=key))


def with_boxes(faces: FaceSet, cfg: PairsConfig, path: str | None, scale: float) -> FaceSet:
    """Return the set with the boxes of a detector joined; `scale` times the longer side of a box is a crop's side."""
    path = path or cfg.landmarks
    if cfg.landmarks is None or faces.crops is None or path is None:
        raise DataError(
            f"misalignment.box: {faces.name} has crops that are aligned already; name datasets.{faces.name}.root and "
            "landmarks, or remove box"
        )
    table = read_boxes(path)
    rows = join(faces.crops.names, table.names, cfg.key_root).rows
    found = rows >= 0
    _require_about_faces(path, table.boxes[rows[found]], present(faces.crops.landmarks)[found], faces.crops.cfg)
    points = np.full((len(rows), 5, 2), np.nan, np.float32)
    points[found] = box_landmarks(table.boxes[rows[found]], scale)
    section = faces.crops.cfg.model_copy(update={"landmarks": path})
    return replace(faces, box=replace(faces.crops, cfg=section, landmarks=points))


def _require_about_faces(path: str, boxes_N4: np.ndarray, points_N52: np.ndarray, cfg: CropInputConfig) -> None:
    try:
        lines = require_about_faces(path, boxes_N4, points_N52)
    except DataError as error:
        if not cfg.accept_unusual:
            raise
        lines = [str(error)]
    for line in lines:
        logger.warning(line)


def _input(cfg: PairsConfig, root: str, landmarks: str | None) -> CropInputConfig:
    kind = "aligned" if landmarks is None else "landmarks"
    same = {
        "exif": cfg.exif, "max_pixels": cfg.max_pixels, "detector": cfg.detector, "accept_unusual": cfg.accept_unusual,
        "names": cfg.names, "landmark_points": cfg.landmark_points, "landmark_faces": cfg.landmark_faces,
    }  # fmt: skip
    return CropInputConfig(loc=root, input=kind, landmarks=landmarks, key_root=cfg.key_root, on_missing="skip", **same)
