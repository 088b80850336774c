"""The crops of an evaluation as PNG: what its methods see of each view, byte for byte, for any other program."""

import io
import json
import logging
import os
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

import cv2
import numpy as np

from data.images.decode import IMAGE_SUFFIXES
from data.tables.names import Names
from evaluation.protocol.face_set import open_views, require_usual_images, with_images
from evaluation.protocol.passes import CropPass
from evaluation.protocol.views import ALIGNED, View, misaligned_views
from jobs.landmarks import with_found_faces
from utils.allowed import AllowedModules
from utils.config import load_config
from utils.config.evaluate import EvaluateConfig
from utils.config.prepare import CropsConfig, PrepareBase
from utils.errors import ConfigError, DataError
from utils.files import atomic_write, make_folder, replacing
from utils.requests import difference_text, noted_request
from utils.store import Store

logger = logging.getLogger(__name__)

_TASK = "crops"


def write_crops(cfg: CropsConfig, base: PrepareBase, allowed: AllowedModules) -> None:
    """Write the crops of each view of the evaluation's data sets below base.save_path; what is there already stays."""
    evaluation = load_config(EvaluateConfig, cfg.evaluation)
    for name in cfg.datasets or ():
        if name not in evaluation.datasets:
            known = ", ".join(evaluation.datasets)
            raise ConfigError(f"crops.datasets: {cfg.evaluation} has no data set {name!r}; known: {known}")
    located = with_found_faces(evaluation, allowed)
    for name in cfg.datasets or located.datasets:
        section = located.datasets[name]
        faces = with_images(open_views(located, name), section)
        if section.detector is None:
            require_usual_images(faces, section)
        store = Store(Path(located.base.save_path) / "cache")
        crops = CropPass(faces, store, located.dataloader.params, base.verbose)
        writer = ViewWriter(Path(base.save_path) / name, crops, file_names(crops.names, name), cfg.container)
        views = [ALIGNED, *(view for group in misaligned_views(located.misalignment, name) for view in group)]
        for view in views:
            writer.write(view)
        files = ", ".join(f"{view.key}: FILE" for view in views)
        logger.info(f"score them, then name the files in evaluate.py: scores: {{METHOD: {{{name}: {{{files}}}}}}}")


def file_names(names: Names, dataset: str) -> list[str]:
    """Return under which name the crop of each image is written: its own, ending in .png."""
    found: dict[str, str] = {}
    for name in names:
        stem, suffix = os.path.splitext(name)
        file = (stem if suffix.lower() in IMAGE_SUFFIXES else name) + ".png"
        parts = file.split("/")
        if file.startswith("/") or ".." in parts or "\\" in file or "" in parts:
            raise DataError(f"datasets.{dataset}: an image is called {name!r}, which no file may be; rename it")
        if file in found:
            raise DataError(
                f"datasets.{dataset}: {found[file]!r} and {name!r} differ in their suffix alone, so that their crops "
                "would be one file; rename one"
            )
        found[file] = name
    return list(found)


class Written(NamedTuple):
    """What became of the images of a view."""

    crops: int
    failures: dict[str, str]
    """Name -> reason."""


@dataclass(frozen=True)
class ViewWriter:
    """Write the views of one data set: each whole or absent, with a .json beside it that says what it was made of."""

    folder: Path
    crops: CropPass
    files: list[str]
    """Name of the PNG of each image of the pass."""
    container: Literal["folder", "tar"]

    def write(self, view: View) -> None:
        """Write the crops of a view, unless the same are there."""
        suffix = ".tar" if self.container == "tar" else ""
        target, note = self.folder / f"{view.key}{suffix}", self.folder / f"{view.key}.json"
        request = {"task": _TASK, "container": self.container, **self.crops.facts(view)}
        if _is_done(target, note, request):
            logger.info(f"{target}: the same crops are there already")
            return
        make_folder(target.parent, "base.save_path")
        with replacing(target) as partial:
            written = self._into_tar(view, partial) if suffix else self._into_folder(view, partial)
            if target.exists():  # as long as it is there, the note is about it
                os.replace(target, partial.with_name("earlier"))
            with atomic_write(note, "w") as stream:
                content = {"request": request, "crops": written.crops, "failures": written.failures}
                json.dump({**content, "opencv": cv2.__version__}, stream, indent=1)
        logger.info(f"{target}: {written.crops:,} crops")
        if written.failures:
            logger.warning(f"{note}: {len(written.failures):,} images gave no crop; the reasons are there")

    def _into_folder(self, view: View, folder: Path) -> Written:
        failures: dict[str, str] = {}
        count = 0
        for file, png in self._encoded(view, failures):
            path = folder / file
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(png)
            count += 1
        return Written(count, failures)

    def _into_tar(self, view: View, path: Path) -> Written:
        failures: dict[str, str] = {}
        count = 0
        with tarfile.open(path, "w", encoding="utf-8", errors="surrogateescape") as archive:
            for file, png in self._encoded(view, failures):
                member = tarfile.TarInfo(file)  # its time stays 0: the same crops are the same bytes
                member.size = len(png)
                archive.addfile(member, io.BytesIO(png))
                count += 1
        return Written(count, failures)

    def _encoded(self, view: View, failures: dict[str, str]) -> Iterator[tuple[str, bytes]]:
        """Yield name and PNG of each crop, in order; add the reasons of images without one to `failures`."""
        done = 0
        for batch in self.crops.batches(view):
            failures.update((self.crops.names[row], reason) for row, reason in batch.failures)
            for row, image in zip(batch.rows, batch.images.numpy(), strict=True):
                yield self.files[row], _png(image)
                done += 1
        if not done:
            name, reason = next(iter(failures.items()))
            raise DataError(f"{self.folder}, {view.key}: none of {len(failures)} images gave a crop, {name}: {reason}")


def _png(image_HW3: np.ndarray) -> bytes:
    done, png = cv2.imencode(".png", cv2.cvtColor(image_HW3, cv2.COLOR_RGB2BGR))
    if not done:
        raise DataError("OpenCV could not encode a PNG; install opencv-python-headless anew")
    return png.tobytes()


def _is_done(target: Path, note: Path, request: dict[str, Any]) -> bool:
    """Say whether these crops are there; refuse to replace what no earlier run wrote."""
    if not target.exists():
        return False
    earlier = noted_request(note, _TASK)
    if earlier is None:
        raise DataError(f"{target} holds something else than crops of an earlier run; name another base.save_path")
    changed = difference_text(earlier, json.loads(json.dumps(request)))
    if changed:
        logger.info(f"{target}: written anew, other request: {changed}")
    return not changed
