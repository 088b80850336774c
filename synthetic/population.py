"""Render whole folders of people, in parallel and the same way every time."""

import csv
import json
import logging
import multiprocessing
import os
import signal
import time
from collections.abc import Generator, Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from synthetic.identity import draw_looks
from synthetic.nuisance import METADATA_COLUMNS, SWEEPS, draw_nuisance, metadata_row, photograph
from synthetic.render import Person
from utils.config.synthetic import LARGEST_POPULATION, PopulationConfig, SyntheticConfig
from utils.errors import DataError
from utils.files import atomic_write, replacing
from utils.outside import signals
from utils.progress import progress
from utils.requests import difference_text

logger = logging.getLogger(__name__)
RENDERER_VERSION = 1
"""To be raised whenever the same configuration gives other images."""
SECOND_LOOK = 0.4
"""Share of the images in which a person has the second look."""
POPULATIONS = ("train", "selection", "test")
MANIFEST = "manifest.json"
TABLES = ("metadata.csv", "landmarks.csv", "pairs.txt", "pairs_clean.txt", MANIFEST)
HEADER = ("path", "identity", "kind", "look", *METADATA_COLUMNS)
LANDMARK_COLUMNS = tuple(f"{axis}{i}" for i in range(1, 6) for axis in "xy")


@dataclass(frozen=True)
class Task:
    """Everything that decides the bytes of one population."""

    name: str
    seed: int
    size_px: int
    population: PopulationConfig

    def identity(self, index: int) -> int:
        """Return the number of the person with this place in the population, counted from 1."""
        return POPULATIONS.index(self.name) * LARGEST_POPULATION + index + 1

    def facts(self) -> dict[str, Any]:
        """Return all that decides the images."""
        return {
            "renderer": RENDERER_VERSION,
            "name": self.name,
            "seed": self.seed,
            "size_px": self.size_px,
            "population": self.population.model_dump(),
        }


@dataclass(frozen=True)
class Report:
    """What became of one population."""

    folder: Path
    images: int
    reused: bool
    seconds: float

    def line(self) -> str:
        """Return one sentence about it."""
        if self.reused:
            return f"{self.folder}: {self.images} images are there already"
        per_s = self.images / self.seconds
        return f"{self.folder}: {self.images} images rendered in {self.seconds:.0f} s ({per_s:.0f} per s)"


def image_kind(population: PopulationConfig, identity: int, number: int) -> str:
    """Return the kind of a person's image, counted from 1: clean first, then single nuisances in turn, then mixed."""
    clean = round(population.images * population.clean)
    single = round(population.images * (population.clean + population.single)) - clean
    if number <= clean:
        return "clean"
    if number <= clean + single:
        names = list(SWEEPS)
        return names[(number - clean - 1 + (identity - 1) * single) % len(names)]
    return "mixed"


def render_identity(task: Task, index: int, folder: str) -> list[list[str]]:
    """Write all images of one person; return a row of metadata and landmarks for each."""
    identity = task.identity(index)
    usual, other = draw_looks(task.seed, identity)
    looks = [Person(usual)]
    looks.append(Person(other, looks[0]))
    name = f"id_{identity:06d}"
    os.mkdir(os.path.join(folder, name))
    rows = []
    for number in range(1, task.population.images + 1):
        kind = image_kind(task.population, identity, number)
        # Numbers start at 1: [seed, identity] and [seed, identity, 0] would be the same stream.
        rng = np.random.default_rng([task.seed, identity, number])
        look = int(rng.random() < SECOND_LOOK)
        image, rendered, nuisance = photograph(looks[look], draw_nuisance(kind, rng), task.size_px, rng)
        path = f"{name}/{number:04d}.jpg"
        options = [cv2.IMWRITE_JPEG_QUALITY, nuisance.jpeg]
        _, encoded = cv2.imencode(".jpg", cv2.cvtColor(image, cv2.COLOR_RGB2BGR), options)
        with open(os.path.join(folder, path), "wb") as stream:
            stream.write(encoded.tobytes())
        rows.append(
            [
                path,
                str(identity),
                kind,
                str(look),
                *metadata_row(nuisance),
                *(f"{v:.3f}" for v in rendered.landmarks.ravel()),
            ]
        )
    return rows


def _render_chunk(work: tuple[Task, range, str]) -> list[list[str]]:
    task, indices, folder = work
    threads = cv2.getNumThreads()
    cv2.setNumThreads(1)
    try:
        return [row for index in indices for row in render_identity(task, index, folder)]
    finally:
        cv2.setNumThreads(threads)


def _leave_interrupts() -> None:
    """Let the parent alone answer Ctrl-C."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _rows(task: Task, folder: Path, processes: int) -> Generator[list[list[str]]]:
    """Render every person; yield rows in the order of the identities, whatever the number of processes."""
    count = task.population.identities
    step = max(1, min(8, count // (4 * processes)))
    work = [(task, range(start, min(start + step, count)), str(folder)) for start in range(0, count, step)]
    if processes == 1:
        yield from map(_render_chunk, work)
        return
    with ProcessPoolExecutor(processes, multiprocessing.get_context("spawn"), _leave_interrupts) as pool:
        try:
            yield from pool.map(_render_chunk, work)
        except BrokenProcessPool:
            signals.leave_if_asked()  # a scheduler sends SIGTERM to all processes
            raise


def _is_done(task: Task, folder: Path) -> bool:
    """Say whether the folder holds this population; refuse a folder that is not ours."""
    if not folder.exists():
        return False
    try:
        manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        count = manifest["images"]
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        raise DataError(
            f"{folder} exists and holds no rendered population ({MANIFEST} is missing or damaged); "
            "remove it or name another folder in base.save_path"
        ) from None
    found = sum(1 for path in folder.glob("id_*/*.jpg"))
    facts = task.facts()
    changed = difference_text({key: manifest.get(key) for key in facts}, facts)
    if not changed and found == count:
        return True
    strange = sorted(path.name for path in folder.iterdir() if path.name not in TABLES and path.name[:3] != "id_")
    if strange:
        raise DataError(
            f"{folder} is to be replaced but holds {strange[0]}; move it away or name another base.save_path"
        )
    reason = f"other content: {changed}" if changed else f"{found} of its {count} images are there"
    logger.info(f"{folder}: rendered anew, {reason}")
    return False


def render_population(task: Task, folder: Path, processes: int) -> Report:
    """Render a population into `folder`, or reuse it where the same one is there already.

    Everything is written beside it first and renamed at the end, so the folder is whole or absent.
    """
    population, started = task.population, time.perf_counter()
    total = population.identities * population.images
    if _is_done(task, folder):
        return Report(folder, total, True, 0.0)
    with replacing(folder) as partial:
        partial.mkdir()
        rows = []
        bar = progress(total=total, desc=f"render {task.name}", unit="image")
        with bar, signals.waiting(), closing(_rows(task, partial, processes)) as parts:
            for part in parts:
                rows += part
                bar.update(len(part))
                signals.leave_if_asked()
        _write_tables(task, partial, rows)
    return Report(folder, total, False, time.perf_counter() - started)


def _write_tables(task: Task, folder: Path, rows: list[list[str]]) -> None:
    """Write metadata.csv, landmarks.csv, the two lists of pairs and the manifest."""
    described = len(HEADER)
    _write_csv(folder / "metadata.csv", HEADER, (row[:described] for row in rows))
    _write_csv(folder / "landmarks.csv", ("path", *LANDMARK_COLUMNS), ([row[0], *row[described:]] for row in rows))
    everyone = [(row[0], row[1]) for row in rows]
    clean = [(row[0], row[1]) for row in rows if row[2] == "clean"]
    for name, members in (("pairs.txt", everyone), ("pairs_clean.txt", clean)):
        lines = draw_pairs(members, task.population.pairs, np.random.default_rng([task.seed, task.identity(0)]))
        with atomic_write(folder / name, "w") as stream:
            stream.writelines(f"{a} {b} {same}\n" for a, b, same in lines)
    manifest = {**task.facts(), "images": len(rows), "opencv": cv2.__version__, "numpy": np.__version__}
    with atomic_write(folder / MANIFEST, "w") as stream:
        json.dump(manifest, stream, indent=1)
        stream.write("\n")


def _write_csv(path: Path, header: tuple[str, ...], rows: Iterator[list[str]]) -> None:
    with atomic_write(path, "w") as stream:
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(header)
        writer.writerows(rows)


def draw_pairs(members: list[tuple[str, str]], count: int, rng: np.random.Generator) -> list[tuple[str, str, int]]:
    """Draw up to `count` different mated pairs and as many non-mated ones from (path, identity) members."""
    groups: dict[str, list[int]] = {}
    for place, (_, identity) in enumerate(members):
        groups.setdefault(identity, []).append(place)
    possible = sum(len(group) * (len(group) - 1) // 2 for group in groups.values())
    others = len(members) * (len(members) - 1) // 2 - possible
    count = min(count, possible // 2, others // 2)  # half: drawing without repetition stays quick
    mated: set[tuple[int, int]] = set()
    non_mated: set[tuple[int, int]] = set()
    several = [group for group in groups.values() if len(group) > 1]
    while len(mated) < count:
        group = several[int(rng.integers(len(several)))]
        a, b = sorted(rng.choice(len(group), 2, replace=False))
        mated.add((group[a], group[b]))
    while len(non_mated) < count:
        a, b = sorted(map(int, rng.choice(len(members), 2, replace=False)))
        if members[a][1] != members[b][1]:
            non_mated.add((a, b))
    return [
        (members[a][0], members[b][0], same) for same, pairs in ((1, mated), (0, non_mated)) for a, b in sorted(pairs)
    ]


def available_cores() -> int:
    """Return how many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def render_populations(cfg: SyntheticConfig, save_path: str | Path) -> list[Report]:
    """Render every population the configuration names, each into a folder of `save_path`."""
    processes = cfg.processes or available_cores()
    reports = []
    for name in POPULATIONS:
        population = getattr(cfg, name)
        if population is not None:
            task = Task(name, cfg.seed, cfg.size_px, population)
            reports.append(render_population(task, Path(save_path) / name, processes))
    return reports
