"""Degrading: copies of photographs made worse in known ways, by the operators of the renderer, and pairs to test on."""

import csv
import json
import logging
import posixpath
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np

from data.alignment import AlignmentError, checked_landmarks, landmarks_of_crop
from data.checks.inputs import InputKeys
from data.images.decode import ImageError, decode_rgb
from data.samples.crops import FaceCrops, name_draws, open_crops, require_usual
from data.tables.landmarks import write_landmarks_csv
from data.tables.scores import write_failures
from data.tables.text_tables import write_csv
from jobs.degrading.degradation import GRADES, KINDS, Degradation, degraded, draw_degradation, of_kinds
from jobs.journal import list_of_images
from synthetic.nuisance import METADATA_COLUMNS, metadata_row
from utils.config.prepare import DegradeConfig, PrepareBase
from utils.errors import DataError
from utils.files import atomic_write, replacing, sha256_file
from utils.outside import signals
from utils.present import present
from utils.progress import progress
from utils.requests import difference_text, noted_request

logger = logging.getLogger(__name__)

REFERENCE, PROBE = "reference", "probe"
OURS = ("blur", "lowres", "noise", "occlusion", "occluder", "darkness", "jpeg")
"""Columns of metadata.csv beside path, identity, kind and grade, as those of rendered people."""
RUN = "run.json"
_TASK = "degrade"
_SHOWN_PX = 112
_WINDOW = 32
"""Images handed to each thread at once."""
_PEOPLE_SHOWN = GRADES


class Copy(NamedTuple):
    """What became of one image."""

    row: int
    degradation: Degradation = Degradation()
    landmarks: np.ndarray | None = None
    reason: str | None = None
    """Why there is no copy."""


@dataclass(frozen=True)
class DegradingRun:
    """Write the copies of one folder of images; may be called from several threads."""

    cfg: DegradeConfig
    crops: FaceCrops
    folder: Path
    """The folder that is renamed at the end."""

    def __call__(self, row: int) -> Copy:
        """Copy one image."""
        name = self.crops.names[row]
        try:
            content = self.crops.source.read(row)
            image, landmarks = self.face(row, content)
            rng = name_draws(name, self.cfg.seed)
            drawn = draw_degradation(self.cfg, rng)
            worse = content
            if drawn.kinds:
                worse, nuisance = degraded(image, landmarks, drawn.nuisance, rng)
                drawn = drawn._replace(nuisance=nuisance)
        except (ImageError, AlignmentError) as error:
            return Copy(row, reason=str(error))
        if self.cfg.references:
            self._write(f"{REFERENCE}/{name}", content)
        self._write(self.copy_name(row, bool(drawn.kinds)), worse)
        return Copy(row, drawn, landmarks)

    def face(self, row: int, content: bytes) -> tuple[np.ndarray, np.ndarray]:
        """Return pixels and landmarks of an image."""
        image = decode_rgb(content, exif=self.cfg.exif, max_pixels=self.cfg.max_pixels)
        if self.crops.landmarks is None:
            return image, landmarks_of_crop(image)
        if not np.isfinite(self.crops.landmarks[row]).all():
            raise AlignmentError("no landmarks")
        return image, checked_landmarks(self.crops.landmarks[row], image)

    def copy_name(self, row: int, worse: bool) -> str:
        """Return where a copy lies; a degraded one is a JPEG file and is called so."""
        name = self.crops.names[row]
        if worse and not name.lower().endswith((".jpg", ".jpeg", ".jpe")):
            name += ".jpg"
        return f"{PROBE}/{name}" if self.cfg.references else name

    def _write(self, name: str, content: bytes) -> None:
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)

    def write_tables(self, copies: list[Copy]) -> None:
        """Write landmarks.csv, metadata.csv, failures.csv and pairs.txt."""
        done = [copy for copy in copies if copy.reason is None]
        names = [self.copy_name(copy.row, bool(copy.degradation.kinds)) for copy in done]
        originals = [self.crops.names[copy.row] for copy in done]
        listed = [*zip(names, done, strict=True)]
        if self.cfg.references:
            intact = [Copy(copy.row, landmarks=copy.landmarks) for copy in done]
            listed += [*zip((f"{REFERENCE}/{name}" for name in originals), intact, strict=True)]
        carried = _carried(self.cfg.metadata)
        header = ("path", "identity", "kind", "grade", *OURS, *carried.columns)
        rows = ((name, *self._metadata(copy), *carried.of(self.crops.names[copy.row])) for name, copy in listed)
        write_csv(self.folder / "metadata.csv", header, rows)
        if self.crops.landmarks is not None:
            points = np.stack([present(copy.landmarks) for _, copy in listed])
            write_landmarks_csv(self.folder / "landmarks.csv", [name for name, _ in listed], points)
        write_failures(self.folder, self.crops.names, {copy.row: copy.reason for copy in copies if copy.reason})
        if self.cfg.references:
            with atomic_write(self.folder / "pairs.txt", "w", errors="surrogateescape") as stream:
                people = [posixpath.dirname(name) for name in originals]
                for first, second, mated in reference_probe_pairs(people, self.cfg):
                    stream.write(f"{REFERENCE}/{originals[first]} {names[second]} {mated}\n")

    def _metadata(self, copy: Copy) -> tuple[str, ...]:
        values = dict(zip(METADATA_COLUMNS, metadata_row(copy.degradation.nuisance), strict=True))
        kind = "+".join(sorted(copy.degradation.kinds)) or "clean"
        person = posixpath.dirname(self.crops.names[copy.row])
        return person, kind, str(copy.degradation.grade), *(values[name] for name in OURS)

    def write_sheet(self, path: Path, rows: list[int]) -> None:
        """Write a picture: an image in each line, itself and every kind of degradation, graded line by line."""
        lines = []
        for line, row in enumerate(rows):
            image, landmarks = self.face(row, self.crops.source.read(row))
            cells = [image]
            for number, kind in enumerate(KINDS, 1):
                rng = name_draws(self.crops.names[row], self.cfg.seed, number)
                drawn = of_kinds((kind,), line % GRADES + 1, self.cfg.strongest, rng)
                cells.append(decode_rgb(degraded(image, landmarks, drawn.nuisance, rng)[0]))
            small = [cv2.resize(cell, (_SHOWN_PX, _SHOWN_PX), interpolation=cv2.INTER_AREA) for cell in cells]
            lines.append(np.hstack(small))
        cv2.imwrite(str(path), cv2.cvtColor(np.vstack(lines), cv2.COLOR_RGB2BGR))


class _Carried(NamedTuple):
    """Columns that come with the images."""

    columns: tuple[str, ...]
    rows: dict[str, tuple[str, ...]]

    def of(self, name: str) -> tuple[str, ...]:
        return self.rows.get(name, ("",) * len(self.columns))


def _carried(path: str | None) -> _Carried:
    """Read the columns to carry over; those that are called like ours get `source_` in front."""
    if path is None:
        return _Carried((), {})
    try:
        with open(path, encoding="utf-8", errors="surrogateescape", newline="") as stream:
            reader = csv.DictReader(stream)
            header, rows = list(reader.fieldnames or ()), list(reader)
    except (OSError, csv.Error) as error:
        raise DataError(
            f"{path}: cannot be read as a CSV of metadata ({error}); name another degrade.metadata"
        ) from error
    if "path" not in header:
        raise DataError(f"{path}: expected a column 'path' beside those to carry over; name another degrade.metadata")
    kept = [name for name in header if name not in ("path", "identity")]
    taken = {"kind", "grade", *OURS}
    titles = tuple(f"source_{name}" if name in taken else name for name in kept)
    return _Carried(titles, {row["path"]: tuple(row[name] or "" for name in kept) for row in rows})


def reference_probe_pairs(people: list[str], cfg: DegradeConfig) -> list[tuple[int, int, int]]:
    """Draw (reference, probe, mated) as places in `people`: a person's pairs are never of the same picture."""
    rng = np.random.default_rng(cfg.seed)
    person = np.unique(people, return_inverse=True)[1].reshape(-1)
    mated = []
    for one in range(person.max(initial=-1) + 1):
        rows = np.flatnonzero(person == one)
        pairs = np.array([(a, b) for a in rows for b in rows if a != b]).reshape(-1, 2)
        if len(pairs) > cfg.mated_per_identity:
            pairs = pairs[np.sort(rng.choice(len(pairs), cfg.mated_per_identity, replace=False))]
        mated += [(int(a), int(b), 1) for a, b in pairs]
    counts, total = np.bincount(person), len(person)
    available = total * total - int((counts * counts).sum())
    wanted = min(cfg.non_mated, available // 2)  # half: drawing without repetition stays quick
    found: set[tuple[int, int]] = set()
    while len(found) < wanted:
        a, b = rng.integers(total, size=(2, wanted))
        keep = person[a] != person[b]
        for pair in zip(a[keep].tolist(), b[keep].tolist(), strict=True):
            if len(found) < wanted:
                found.add(pair)
    return mated + [(a, b, 0) for a, b in sorted(found)]


def degrade_folder(cfg: DegradeConfig, base: PrepareBase) -> None:
    """Copy every image of `cfg.loc` into `base.save_path`, which is whole or absent; the same request is reused.

    The folder holds no other picture: its contact sheet lies beside it, as FOLDER.png.
    """
    crops, folder = open_crops(cfg.crops), Path(base.save_path)
    if not len(crops):
        raise DataError(f"{cfg.loc}: no image below this folder; name another degrade.loc")
    request = _request(cfg, crops)
    if _is_done(folder, request):
        logger.info(f"{folder}: the same copies are there already")
        return
    require_usual(crops, InputKeys("degrade.landmarks", "degrade.accept_unusual"))
    with replacing(folder) as partial:
        partial.mkdir()
        run = DegradingRun(cfg, crops, partial)
        bar = progress(total=len(crops), unit="img", desc="degrade", verbose=base.verbose)
        copies: list[Copy] = []
        window = _WINDOW * cfg.num_workers
        with bar, signals.waiting(), ThreadPoolExecutor(cfg.num_workers) as pool:
            for start in range(0, len(crops), window):
                part = pool.map(run, range(start, min(start + window, len(crops))))
                for copy in part:
                    copies.append(copy)
                    bar.update()
                signals.leave_if_asked()
        if all(copy.reason for copy in copies):
            raise DataError(f"{cfg.loc}: none of {len(crops)} images could be copied, first: {copies[0].reason}")
        run.write_tables(copies)
        shown = [copy.row for copy in copies if copy.reason is None][:_PEOPLE_SHOWN]
        run.write_sheet(folder.with_name(f"{folder.name}.png"), shown)
        with atomic_write(partial / RUN, "w") as stream:
            json.dump({"request": request, "opencv": cv2.__version__, "numpy": np.__version__}, stream, indent=1)
    failed, worse = (sum(map(bool, flags)) for flags in zip(*((c.reason, c.degradation.kinds) for c in copies)))
    logger.info(f"{folder}: {len(copies) - failed:,} images copied, {worse:,} of them degraded, {failed:,} failed")


def _request(cfg: DegradeConfig, crops: FaceCrops) -> dict[str, Any]:
    """Return everything that decides the copies."""
    files = {key: sha256_file(path) for key, path in (("landmarks", cfg.landmarks), ("metadata", cfg.metadata)) if path}
    settings = cfg.model_dump(mode="json", exclude={"loc", "landmarks", "metadata", "num_workers"})
    return {
        "task": _TASK,
        **settings,
        "sha256": files,
        "files": list_of_images(cfg.loc, crops.names),
        "sizes_and_times": crops.source.fingerprint(),
    }


def _is_done(folder: Path, request: dict[str, Any]) -> bool:
    """Say whether the folder holds these copies; refuse a folder that holds anything but an earlier run's."""
    if not folder.exists() or not any(folder.iterdir()):
        return False
    earlier = noted_request(folder / RUN, _TASK)
    if earlier is None:
        raise DataError(f"{folder} holds something else than degraded copies; name a new folder in base.save_path")
    if changed := difference_text(earlier, request):
        logger.info(f"{folder}: copied anew, other request: {changed}")
        return False
    return True
