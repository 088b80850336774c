"""Prepare data: python prepare.py -c configs/prepare_config.yaml base.task=TASK.

TASK: check, convert, fuse, landmarks, crops, degrade, synthetic or cache.
"""

import json
import logging
import sys
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np

from data.checks.landmark_order import unlike_face
from data.index.build import FaceIndex, build_index
from data.samples.training import index_remarks
from data.tables.fusing import fuse_labels
from data.tables.landmarks import read_landmarks, write_landmarks_csv
from data.tables.scores import LABELS, read_scores, write_labels, write_scores_csv
from jobs.contact_sheet import look
from jobs.cropping.crops import write_crops
from jobs.degrading.folder import degrade_folder
from jobs.landmarks import detect_landmarks
from synthetic import contact_sheet, render_populations
from utils import cli
from utils.allowed import AllowedModules
from utils.config import is_default, load_config
from utils.config.prepare import PrepareConfig
from utils.config.sections import LandmarkForm, ScoreForm
from utils.errors import DataError
from utils.files import atomic_write, make_folder
from utils.present import present
from utils.store import Store

logger = logging.getLogger("prepare")


def main(argv: Sequence[str] | None = None) -> int:
    """Read the configuration and run the task it names."""
    command = cli.parse_command(__doc__, argv)
    cfg = load_config(PrepareConfig, command.config, command.overrides)
    level = logging.INFO if cfg.base.verbose else logging.ERROR
    logging.basicConfig(level=level, format="%(message)s", stream=sys.stderr, force=True)
    for line in without_effect(cfg):
        logger.info(line)
    task = TASKS[cfg.base.task]
    task(cfg, command.allowed) if task in (landmarks, crops) else task(cfg)
    return 0


def without_effect(cfg: PrepareConfig) -> list[str]:
    """Return a line on the keys of `dataset`, which is written as for training, that the task does not read."""
    read = READS.get(cfg.base.task)
    if read is None or cfg.dataset is None:
        return []
    idle = [key for key in type(cfg.dataset).model_fields if key not in read and not is_default(cfg.dataset, key)]
    if not idle:
        return []
    named = ", ".join(f"dataset.{key}" for key in idle)
    return [f"{named}: without effect in task {cfg.base.task}, which reads {', '.join(read)}"]


def check(cfg: PrepareConfig) -> None:
    """Print how landmarks and labels cover the images, write coverage.json and check.png; fail where training would."""
    dataset = present(cfg.dataset)
    index, coverage = build_index(dataset.model_copy(update={"on_missing": "skip"}))
    lines = coverage.lines()
    if index.landmarks is not None:
        lines += unlike_faces(index)
    folder = make_folder(cfg.base.save_path, "base.save_path")
    lines += look(index, dataset, cfg.check, folder)
    sys.stdout.write("\n".join(lines) + "\n")
    with atomic_write(folder / "coverage.json", "w") as stream:
        json.dump({**coverage.to_dict(), "report": lines}, stream, indent=2)
    if dataset.on_missing == "error":
        coverage.require_complete()
    for line in index_remarks(index, dataset):
        logger.warning(line)


def unlike_faces(index: FaceIndex) -> list[str]:
    """Return a line on landmarks that cannot be a face in template order."""
    block = 1 << 16
    points = present(index.landmarks)
    rows = np.flatnonzero(np.concatenate([unlike_face(points[at : at + block]) for at in range(0, len(index), block)]))
    if not len(rows):
        return []
    share = f"{len(rows):,} of {len(index):,} images have points unlike a face in template order"
    return [f"landmarks: {share}, first: {index.names[rows[0]]!r}; is the order or the x, y order another one?"]


def convert(cfg: PrepareConfig) -> None:
    """Read a landmark or label file of any format and write it as landmarks.csv or labels.csv."""
    given = present(cfg.convert)
    kind, source = given.kind, Path(given.source)
    target = make_folder(cfg.base.save_path, "base.save_path") / f"{kind}.csv"
    if target.exists() and source.exists() and target.samefile(source):
        raise DataError(f"{source}: the result would replace this file; name another base.save_path")
    if kind == "labels":
        names, values, remarks = read_scores(source, cfg.convert)
        write_scores_csv(target, names, values)
    else:
        names, values, remarks = read_landmarks(source, cfg.convert)
        write_landmarks_csv(target, names, values)
    for remark in remarks:
        logger.info(f"{source}: {remark}")
    spread = f", from {values.min():g} to {values.max():g}" if kind == "labels" else ""
    logger.info(f"{target}: {len(names):,} rows{spread}")


def fuse(cfg: PrepareConfig) -> None:
    """Make one label file of several, by the mean of the ranks."""
    folder = make_folder(cfg.base.save_path, "base.save_path")
    given = present(cfg.fuse)
    names, labels = fuse_labels(given)
    write_labels(folder, names, labels)
    logger.info(f"{folder / LABELS[0]}: {len(names):,} images, rank mean of {len(given.files)} files")


def degrade(cfg: PrepareConfig) -> None:
    """Copy images and make them worse, by known degradations."""
    degrade_folder(present(cfg.degrade), cfg.base)


def landmarks(cfg: PrepareConfig, allowed: AllowedModules) -> None:
    """Detect a face in every image; write landmarks.csv, and failures.csv for images without one."""
    detect_landmarks(cfg.base, present(cfg.dataset), present(cfg.landmarks), allowed)


def crops(cfg: PrepareConfig, allowed: AllowedModules) -> None:
    """Write the crops of an evaluation as PNG, for programs that score image files."""
    write_crops(present(cfg.crops), cfg.base, allowed)


def synthetic(cfg: PrepareConfig) -> None:
    """Render people with identities, exact landmarks and known nuisance."""
    folder, people = make_folder(cfg.base.save_path, "base.save_path"), present(cfg.synthetic)
    for report in render_populations(people, folder):
        logger.info(report.line())
    sheet = contact_sheet(people.seed, 1, 6)
    cv2.imwrite(str(folder / "faces.png"), cv2.cvtColor(sheet, cv2.COLOR_RGB2BGR))


def cache(cfg: PrepareConfig) -> None:
    """List what a cache folder keeps, or clear it."""
    given = present(cfg.cache)
    store, wanted = Store(given.folder), (given.kind, given.unused_days)
    if not store.folder.is_dir():
        raise DataError(f"{store.folder}: no such folder; name in cache.folder one that keeps something")
    if given.clear:
        removed = store.clear(*wanted)
        size = sum(one.size for one in removed)
        logger.info(f"{store.folder}: {len(removed)} entries removed, {size / 2**20:,.1f} MiB")
    else:
        sys.stdout.write("".join(f"{line}\n" for line in store.lines(*wanted)))


READS = {
    "check": (
        *("image_location", "landms_location", "quality_location", "label_scaling", "higher_is_better"),
        *("key_root", "on_missing", "exif", "max_pixels", "names", "accept_unusual", "cache", *ScoreForm.model_fields),
        *LandmarkForm.model_fields,
    ),
    "landmarks": ("image_location", "exif", "max_pixels", "names"),
}
"""Task -> keys of `dataset` that it reads."""
TASKS = {
    "check": check,
    "convert": convert,
    "fuse": fuse,
    "landmarks": landmarks,
    "crops": crops,
    "degrade": degrade,
    "synthetic": synthetic,
    "cache": cache,
}

if __name__ == "__main__":
    sys.exit(cli.run(main))
