"""One pass over the crops of a data set for every model that sees them, with a cache of what was measured."""

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple
from zipfile import BadZipFile

import numpy as np

from data.samples.datasets import CropPerturbation
from data.samples.loader import crop_batches
from data.tables.names import Names
from evaluation.protocol.embeddings import ImageModel
from evaluation.protocol.face_set import FaceSet
from evaluation.protocol.views import View
from utils.config.evaluate import PassParams
from utils.errors import DataError
from utils.files import atomic_write, sha256_file
from utils.progress import progress

_FORMAT = 1


class Measured(NamedTuple):
    """Hold one model's numbers per name of the pairs, (N,) or (N, D), NaN where there is none, with the reasons."""

    values: np.ndarray
    reasons: dict[int, str | None]


class CropPass:
    """Run models over the crops of one data set; what was measured once is read from the cache."""

    def __init__(self, faces: FaceSet, cache: Path, params: PassParams, verbose: bool = True):
        self.faces, self.cache, self.params, self.verbose = faces, cache / faces.name, params, verbose
        used = faces.pairs.used()
        self.known = used[faces.rows[used] >= 0]
        self.files = faces.rows[self.known]
        """Rows of the folder that are cropped, one per row of `known`."""
        self.names = faces.folder.names.take(self.files)
        self.inputs = _digest(faces.folder.cfg.loc, self.names)

    def __call__(self, view: View, models: Mapping[str, ImageModel]) -> dict[str, Measured]:
        """Return each model's numbers on the crops of `view`, all of them from the same crops."""
        found: dict[str, Measured] = {}
        for name, model in models.items():
            if (measured := self._read(view, name, model)) is not None:
                found[name] = measured
        missing = {name: model for name, model in models.items() if name not in found}
        if missing:
            for name, measured in self._run(view, missing).items():
                found[name] = measured
                self._write(view, name, missing[name], measured)
        return {name: self._spread(found[name]) for name in models}

    def _run(self, view: View, models: Mapping[str, ImageModel]) -> dict[str, Measured]:
        folder = self.faces.second if view.p is None else self.faces.folder
        perturb = CropPerturbation(view.p, "template", view.seed) if view.p else None
        crops = folder.crops(self.files, perturb)
        parts: dict[str, list[np.ndarray]] = {name: [] for name in models}
        rows: list[int] = []
        reasons: dict[int, str] = {}
        label = f"{self.faces.name}, {view.label}"
        bar = progress(total=len(crops), desc=label, unit="img", verbose=self.verbose)
        with bar:
            for batch in crop_batches(crops, self.params.batch_size, self.params.num_workers):
                reasons.update(batch.failures)
                if batch.rows:
                    rows += batch.rows
                    names = [self.names[row] for row in batch.rows]
                    for name, model in models.items():
                        parts[name].append(np.asarray(model(batch.images, names)))
                bar.update(len(batch.rows) + len(batch.failures))
        if not rows:
            raise DataError(f"{label}: none of {len(crops)} images gave a crop, first: {self.names[0]}: {reasons[0]}")
        names = [self.names[row] for row in rows]
        found = {}
        for name, model in models.items():
            values = _scatter(model.finish(np.concatenate(parts[name]), names), rows, len(crops))
            empty = np.isnan(values) if values.ndim == 1 else np.isnan(values).any(axis=1)
            found[name] = Measured(values, dict.fromkeys(np.flatnonzero(empty).tolist(), model.reason) | reasons)
        return found

    def _spread(self, measured: Measured) -> Measured:
        """Bring numbers per crop onto the names of the pairs."""
        values = _scatter(measured.values, self.known, len(self.faces.pairs.names))
        return Measured(values, {int(self.known[row]): reason for row, reason in measured.reasons.items()})

    def _file(self, view: View, name: str, model: ImageModel) -> Path:
        folder = self.faces.second if view.p is None else self.faces.folder
        facts = {
            "format": _FORMAT,
            "model": model.fingerprint,
            "view": [view.p, view.seed],
            "images": self.inputs,
            "crop": folder.cfg.model_dump(mode="json", exclude={"loc", "landmarks", "on_missing"}),
            "landmarks": sha256_file(folder.cfg.landmarks) if folder.cfg.landmarks else None,
        }
        key = hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:16]
        safe = "".join(c if c.isalnum() or c in "-_.()" else "_" for c in name)
        return self.cache / view.label / f"{safe}-{key}.npz"

    def _read(self, view: View, name: str, model: ImageModel) -> Measured | None:
        try:
            with np.load(self._file(view, name, model), allow_pickle=False) as archive:
                reasons = json.loads(str(archive["reasons"]))
                values = archive["embeddings" if "embeddings" in archive else "scores"]
                return Measured(values, {int(row): reason for row, reason in reasons.items()})
        except (OSError, ValueError, KeyError, EOFError, BadZipFile):
            return None

    def _write(self, view: View, name: str, model: ImageModel, measured: Measured) -> None:
        with atomic_write(self._file(view, name, model)) as stream:
            kind = "scores" if measured.values.ndim == 1 else "embeddings"  # these read_embeddings reads too
            arrays = {"names": np.array(list(self.names), dtype=str), kind: measured.values}
            np.savez(stream, **arrays, reasons=np.array(json.dumps(measured.reasons)))


def _scatter(values: np.ndarray, rows: Sequence[int], count: int) -> np.ndarray:
    spread = np.full((count, *values.shape[1:]), np.nan, dtype=values.dtype)
    spread[rows] = values
    return spread


def _digest(root: str, names: Names) -> str:
    """Fingerprint image files by name, size and time of change."""
    digest = hashlib.sha256()
    for name in names:
        path = os.path.join(root, name)
        status: Any = os.stat(path) if os.path.exists(path) else None
        facts = (status.st_size, status.st_mtime_ns) if status else None
        digest.update(f"{name}\0{facts}\n".encode("utf-8", "surrogateescape"))
    return digest.hexdigest()
