"""One pass over the crops of a data set for every model that sees them, with a cache of what was measured."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from data.samples.crops import CropBatch
from data.samples.loader import crop_batches
from evaluation.protocol.embeddings import ImageModel
from evaluation.protocol.face_set import FaceSet
from evaluation.protocol.views import View
from utils.config.evaluate import PassParams
from utils.config.sections import DETECTION_KEYS
from utils.errors import DataError
from utils.files import sha256_file, writing
from utils.outside import signals
from utils.present import present
from utils.progress import progress
from utils.store import Store

OUTSIDE = "outside"
"""Name of the share of each crop's pixels whose source lies outside its image, beside those of the models."""
_FORMAT = 2


class Measured(NamedTuple):
    """Hold one model's numbers per name of the pairs, (N,) or (N, D), NaN where there is none, with the reasons."""

    values: np.ndarray
    reasons: dict[int, str | None]


class CropPass:
    """Run models over the crops of one data set; what was measured once is read from the store."""

    def __init__(self, faces: FaceSet, store: Store, params: PassParams, verbose: bool = True):
        self.faces, self.store, self.params, self.verbose = faces, store, params, verbose
        used, rows, crops = faces.pairs.used(), present(faces.rows), present(faces.crops)
        self.known = used[rows[used] >= 0]
        self.files = rows[self.known]
        """Rows of the crops that are cut, one per row of `known`."""
        self.names = crops.names.take(self.files)
        self.files_sha256 = crops.source.take(self.files).fingerprint()

    def __call__(self, view: View, models: Mapping[str, ImageModel]) -> dict[str, Measured]:
        """Return each model's numbers on the crops of `view`, and OUTSIDE, all of them from the same crops."""
        asked: dict[str, ImageModel | None] = {**models, OUTSIDE: None}
        found: dict[str, Measured] = {}
        for name, model in asked.items():
            if (measured := self._read(view, name, model)) is not None:
                found[name] = measured
        missing = {name: model for name, model in asked.items() if name not in found}
        if missing:
            for name, measured in self._run(view, missing).items():
                found[name] = measured
                self._write(view, name, missing[name], measured)
        return {name: self._spread(found[name]) for name in asked}

    def batches(self, view: View) -> Iterator[CropBatch]:
        """Yield the crops of a view batch by batch; their rows are those of `names`."""
        crops = replace(self.faces.crops_of(view.alignment).take(self.files), perturb=view.perturbation)
        bar = progress(total=len(crops), desc=f"{self.faces.name}, {view.label}", unit="img", verbose=self.verbose)
        with bar, signals.waiting():
            for batch in crop_batches(crops, self.params.batch_size, self.params.num_workers):
                yield batch
                bar.update(len(batch.rows) + len(batch.failures))
                signals.leave_if_asked()

    def _run(self, view: View, models: Mapping[str, ImageModel | None]) -> dict[str, Measured]:
        parts: dict[str, list[np.ndarray]] = {name: [] for name in models}
        rows: list[int] = []
        reasons: dict[int, str] = {}
        for batch in self.batches(view):
            reasons.update(batch.failures)
            if batch.rows:
                rows += batch.rows
                names = [self.names[row] for row in batch.rows]
                for name, model in models.items():
                    parts[name].append(np.asarray(model(batch.images, names) if model else batch.outside))
        if not rows:
            place = f"{self.faces.name}, {view.label}"
            raise DataError(
                f"{place}: none of {len(self.files)} images gave a crop, first: {self.names[0]}: {reasons[0]}"
            )
        names = [self.names[row] for row in rows]
        found = {}
        for name, model in models.items():
            measured = np.concatenate(parts[name])
            values = _scatter(model.finish(measured, names) if model else measured, rows, len(self.files))
            empty = np.isnan(values) if values.ndim == 1 else np.isnan(values).any(axis=1)
            why = model.reason if model else None
            found[name] = Measured(values, dict.fromkeys(np.flatnonzero(empty).tolist(), why) | reasons)
        return found

    def _spread(self, measured: Measured) -> Measured:
        """Bring numbers per crop onto the names of the pairs."""
        values = _scatter(measured.values, self.known, len(self.faces.pairs.names))
        return Measured(values, {int(self.known[row]): reason for row, reason in measured.reasons.items()})

    def facts(self, view: View) -> dict[str, Any]:
        """Return what decides the crops of a view, as JSON values."""
        crops = self.faces.crops_of(view.alignment)
        return {
            "format": _FORMAT,
            "view": view.facts,
            "image_names": self.names.digest(),
            "image_sizes_and_times": self.files_sha256,
            "crop": crops.cfg.model_dump(
                mode="json", exclude={"loc", "landmarks", "on_missing", "accept_unusual", "names", *DETECTION_KEYS}
            ),
            "landmarks": sha256_file(crops.cfg.landmarks) if crops.cfg.landmarks else None,
        }

    def _facts(self, view: View, model: ImageModel | None) -> dict[str, Any]:
        return {"model": model.fingerprint if model else OUTSIDE, **self.facts(view)}

    def _read(self, view: View, name: str, model: ImageModel | None) -> Measured | None:
        entry = self.store.open(self._kind(view, name), self._facts(view, model))
        if entry is None:
            return None
        try:
            with np.load(entry.folder / entry.files[0], allow_pickle=False) as archive:
                return Measured(archive[Path(entry.files[0]).stem], {int(row): why for row, why in entry.note.items()})
        except FileNotFoundError:  # another process has just cleared the cache
            return None

    def _write(self, view: View, name: str, model: ImageModel | None, measured: Measured) -> None:
        what = "scores" if measured.values.ndim == 1 else "embeddings"  # these read_embeddings reads too
        arrays = dict[str, Any](names=np.array(list(self.names), dtype=str))
        arrays[what] = measured.values
        reasons = {str(row): why for row, why in measured.reasons.items()}
        with self.store.create(self._kind(view, name), self._facts(view, model), reasons) as folder:
            with writing(folder / f"{what}.npz"):
                np.savez(folder / f"{what}.npz", **arrays)

    def _kind(self, view: View, name: str) -> str:
        return f"{self.faces.name}.{view.label}.{name}"


def _scatter(values: np.ndarray, rows: Sequence[int] | np.ndarray, count: int) -> np.ndarray:
    spread = np.full((count, *values.shape[1:]), np.nan, dtype=values.dtype)
    spread[rows] = values
    return spread
