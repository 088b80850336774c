"""The index: which images there are, with landmarks, label or identity each, as arrays that workers share."""

import contextlib
import logging
import os
import time
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from data.index.coverage import Coverage, LabelScaling, TableCoverage
from data.index.identities import find_identities, folder_remarks, identity_table
from data.index.label_check import odd_labels
from data.sources.base import ImageSource
from data.sources.folder import FolderSource, FolderState, list_folder
from data.sources.registry import open_source
from data.tables.forms.plain import list_beside
from data.tables.join import join, way_together
from data.tables.landmarks import read_landmarks
from data.tables.names import Names
from data.tables.scores import read_scores
from utils.config.sections import LandmarkForm, ScoreForm
from utils.config.train import DatasetConfig, ImagesConfig
from utils.errors import DataError
from utils.files import sha256_file
from utils.outside.reading import about
from utils.present import present
from utils.store import DamagedEntry, Store, read_entry, save_array

TEMPLATE = "template"
_FORMAT = 6
_KEYS = {
    "key_root",
    "identity",
    "label_scaling",
    "higher_is_better",
    *ScoreForm.model_fields,
    *LandmarkForm.model_fields,
}
"""Keys of the dataset section that decide what the index holds, beside the files."""
_SMALL_BYTES = 16 << 20
_TICK_NS = 2_000_000_000
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class FaceIndex:
    """What is known about each image of a source, row by row; built ones are read-only.

    Pickling an index that lies in a cache sends its place only.
    """

    source: ImageSource
    """Where the images come from: exactly those of the rows."""
    landmarks: np.ndarray | None = None
    """(N, 5, 2) float32 px of the source image; None: the images are aligned crops."""
    labels: np.ndarray | None = None
    """(N,) float32, scaled, higher is better."""
    identities: np.ndarray | None = None
    """(N,) int32 class of each image."""
    classes: Names | None = None
    """Folder of each class, sorted."""
    cache: str | None = field(default=None, compare=False)
    """Folder the arrays are mapped from."""

    def __len__(self) -> int:
        return len(self.source)

    @property
    def names(self) -> Names:
        """Return the names of the images."""
        return self.source.names

    def __reduce__(self) -> tuple:
        if self.cache is not None:
            return _open_index, (self.source.location, self.cache)
        return FaceIndex, (self.source, self.landmarks, self.labels, self.identities, self.classes)


def build_index(cfg: DatasetConfig) -> tuple[FaceIndex, Coverage]:
    """Join images, landmarks and labels for distillation.

    `landms_location: template` means crops that are aligned already. Raises DataError when nothing matches
    and, unless on_missing is skip, when an image has no landmarks or no label.
    """
    return _complete(cfg, *_cached(cfg, identities=False))


def build_identity_index(cfg: ImagesConfig) -> tuple[FaceIndex, Coverage]:
    """Join images, landmarks if there are any, and identities: the class is the parent folder.

    Classes are numbered from 0 in the order of their folders' names; quality labels are not read.
    """
    return _complete(cfg, *_cached(cfg, identities=True))


def _complete(cfg: ImagesConfig, index: FaceIndex, coverage: Coverage) -> tuple[FaceIndex, Coverage]:
    if cfg.on_missing == "error":
        coverage.require_complete()
    return index, coverage


def _cached(cfg: ImagesConfig, identities: bool) -> tuple[FaceIndex, Coverage]:
    root = os.path.abspath(cfg.image_location)
    beside = identity_table(cfg.identity) if identities else _label_file(cfg)
    keys = ("landms_location", "identity" if identities else "quality_location")
    named = {key: path for key, path in zip(keys, (_landmark_file(cfg), beside), strict=True) if path}
    for key, path in named.items():
        if not os.path.isfile(path):
            what = "is a folder, not a file" if os.path.isdir(path) else "no such file"
            raise DataError(f"{path}: {what}; check dataset.{key}")
    files = list(named.values())
    files += [str(names) for path in files if (names := list_beside(Path(path))) is not None]
    if cfg.cache is None or cfg.names is not None or not os.path.isdir(root):
        return _build(cfg, open_source(cfg.image_location, cfg.names), identities)
    facts = {
        "format": _FORMAT, "root": root, "template": cfg.landms_location == TEMPLATE, "identities": identities,
        "files": {path: _content(path) for path in files},
        **cfg.model_dump(include=_KEYS, mode="json"),
    }  # fmt: skip
    store = Store(cfg.cache)
    with contextlib.suppress(FileNotFoundError):  # another process has just removed it for the same reason
        if (kept := _kept(store, facts, root)) is not None:
            return kept
    stable = all(map(_settled, files))
    source = list_folder(root)
    index, coverage = _build(cfg, source, identities)
    if stable and source.state is not None and source.state.settled:
        index = _stored(store, facts, index, source.state, coverage)
    return index, coverage


def _kept(store: Store, facts: dict[str, Any], root: str) -> tuple[FaceIndex, Coverage] | None:
    """Return the stored index where the folders are as they were; remove it, None, where they are not."""
    entry = store.open("index", facts)
    if entry is None:
        return None
    arrays = entry.arrays()
    if FolderState(present(_table(arrays, "folders")), arrays["changed_ns"]).holds(root):
        return _from_arrays(root, arrays, entry.folder), Coverage.from_dict(entry.note)
    _log.info("%s: not used, a folder below %s has changed since", entry.folder, root)
    entry.discard()
    return None


def _stored(store: Store, facts: dict[str, Any], index: FaceIndex, state: FolderState, coverage: Coverage) -> FaceIndex:
    """Return the index mapped from the store, or itself, with a warning, where it cannot be stored."""
    try:
        with store.create("index", facts, coverage.to_dict()) as folder:
            for name, array in _arrays(index, state).items():
                save_array(folder, name, array)
        entry = read_entry(store.place("index", facts), check=False)
        return _from_arrays(index.source.location, entry.arrays(), entry.folder)
    except (OSError, DamagedEntry) as error:  # a full disk, or another process has removed it
        _log.warning("%s: the index cannot be stored (%s)", store.folder, error)
        return index


def _content(path: str) -> dict[str, Any]:
    """Tell a table's content: its hash, or its modification time when it is large."""
    status = os.stat(path)
    if status.st_size <= _SMALL_BYTES:
        return {"sha256": sha256_file(path)}
    return {"bytes": status.st_size, "mtime_ns": status.st_mtime_ns}


def _settled(path: str) -> bool:
    """Tell whether any later change of the file must show in `_content`."""
    status = os.stat(path)
    return status.st_size <= _SMALL_BYTES or status.st_mtime_ns + _TICK_NS < time.time_ns()


def _landmark_file(cfg: ImagesConfig) -> str | None:
    return None if cfg.landms_location in (None, TEMPLATE) else cfg.landms_location


def _label_file(cfg: ImagesConfig) -> str | None:
    return cfg.quality_location if isinstance(cfg, DatasetConfig) else None


def _arrays(index: FaceIndex, state: FolderState) -> dict[str, np.ndarray]:
    tables = {"names": index.names, "classes": index.classes, "folders": state.folders}
    arrays = {"landmarks": index.landmarks, "labels": index.labels, "identities": index.identities}
    for name, table in tables.items():
        if table is not None:
            arrays |= {f"{name}_data": table.data, f"{name}_offsets": table.offsets}
    arrays["changed_ns"] = state.changed_ns
    return {name: array for name, array in arrays.items() if array is not None}


def _table(arrays: dict[str, np.ndarray], name: str) -> Names | None:
    return Names(arrays[f"{name}_data"], arrays[f"{name}_offsets"]) if f"{name}_data" in arrays else None


def _from_arrays(root: str, arrays: dict[str, np.ndarray], folder: Path) -> FaceIndex:
    landmarks, labels, identities = (arrays.get(name) for name in ("landmarks", "labels", "identities"))
    source = FolderSource(root, present(_table(arrays, "names")))
    return FaceIndex(source, landmarks, labels, identities, _table(arrays, "classes"), str(folder))


def _open_index(root: str, folder: str) -> FaceIndex:
    try:
        entry = read_entry(folder, check=False)
        return _from_arrays(root, entry.arrays(), entry.folder)
    except (OSError, DamagedEntry):
        raise DataError(f"{folder}: the stored index is gone while it is in use; start again") from None


def _build(cfg: ImagesConfig, source: ImageSource, identities: bool) -> tuple[FaceIndex, Coverage]:
    place, names = source.location, source.names
    if not len(source):
        raise DataError(
            f"{place}: no image below this folder ({source.named_others()}); name the folder that holds them"
        )
    facts: dict[str, Any] = {"root": place, "images": len(source), "other_files": source.other_files}
    facts["others"] = source.named_others()
    keep = np.ones(len(source), bool)
    labels = landmarks = None
    if not identities and (path := _label_file(cfg)):
        labels, facts["labels"] = _joined(cfg, names, path, "quality label")
        keep &= np.isfinite(labels)
    if path := _landmark_file(cfg):
        landmarks, facts["landmarks"] = _joined(cfg, names, path, "landmarks")
        keep &= np.isfinite(landmarks[:, 0, 0])
    facts["aligned_copies"] = labels is not None and landmarks is None
    if not keep.any():
        raise DataError(
            f"{place}: no image has both landmarks and a quality label; the two files name different images"
        )
    if not keep.all():
        rows = np.flatnonzero(keep)
        source = source.take(rows)
        labels = None if labels is None else labels[rows]
        landmarks = None if landmarks is None else landmarks[rows]
    if labels is not None and isinstance(cfg, DatasetConfig):
        scaling = LabelScaling.fit(labels, cfg)
        odd, table = odd_labels(labels, scaling), facts["labels"]
        facts |= {"scaling": scaling, "labels": replace(table, remarks=(*table.remarks, *odd))}
        labels = scaling.apply(labels)
    classes_of = classes = None
    if identities:
        found = find_identities(source.names, cfg.identity)
        found.require_folders(source.location, "give each identity a folder of its own")
        classes_of, classes = found
        facts |= {"classes": len(classes), "remarks": tuple(folder_remarks(found, cfg.identity, "dataset.identity"))}
    coverage = Coverage(**facts, used=len(source))
    for array in (landmarks, labels, classes_of):
        if array is not None:
            array.setflags(write=False)
    return FaceIndex(source, landmarks, labels, classes_of, classes), coverage


def _joined(cfg: ImagesConfig, names: Names, path: str, what: str) -> tuple[np.ndarray, TableCoverage]:
    """Return the values of `path` in the order of `names`, NaN where there are none."""
    if what == "landmarks" or not isinstance(cfg, ScoreForm):
        table, values, remarks = read_landmarks(path, cfg)
    else:
        table, values, remarks = read_scores(path, cfg)
    pa.default_memory_pool().release_unused()  # Arrow keeps what it has used; the next steps need it
    with about(path):
        found = join(names, table, cfg.key_root)
    missing = np.flatnonzero(found.rows < 0)
    coverage = TableCoverage(
        path=str(path), rows=len(table), matched=len(names) - len(missing),
        unmatched=tuple(names[row] for row in missing[:3]), first_key=table[0],
        image_folders=found.wanted_folders, key_folders=found.have_folders,
        remarks=tuple(f"{remark} ({path})" for remark in remarks),
    )  # fmt: skip
    if len(missing) == len(names):
        raise DataError(
            f"{path}: none of the {len(names)} images has {_article(what)}; the first image is {names[0]!r}, "
            f"the first name in the file {table[0]!r}; {way_together(names, table, cfg.key_root)}"
        )
    del table
    pa.default_memory_pool().release_unused()
    joined = values[found.rows]
    joined[missing] = np.nan
    return joined, coverage


def _article(what: str) -> str:
    return what if what == "landmarks" else f"a {what}"
