"""Rendered photographs and populations: nuisance as stated, bytes without surprise, tables that say the truth."""

import csv
import hashlib
import json
import logging
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

import prepare
from data.index.build import build_identity_index
from synthetic import contact_sheet, render_populations
from synthetic.geometry import Pose
from synthetic.nuisance import KINDS, SWEEPS, Nuisance, degrade, draw_clean, draw_nuisance, photograph
from synthetic.occluders import cover
from synthetic.population import Task, draw_pairs, image_kind, render_population
from tests.helpers.rendering import frontal, person, rendered
from utils.config.synthetic import PopulationConfig, SyntheticConfig
from utils.config.train import DatasetConfig
from utils.errors import DataError

SMALL = PopulationConfig(identities=5, images=4, pairs=6)


def digests(folder: Path) -> dict[str, str]:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def table(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as stream:
        return list(csv.DictReader(stream))


# nuisance


@pytest.mark.parametrize("kind", KINDS)
def test_one_nuisance_at_a_time(kind):
    ranges = {
        "yaw": 18,
        "pitch": 12,
        "blur": 0.5,
        "noise": 3,
        "darkness": 0.15,
        "light": 0.5,
        "occlusion": 0,
        "lowres": 1,
    }
    for number in range(30):
        drawn = draw_nuisance(kind, np.random.default_rng([1, number]))
        beyond = {name for name, limit in ranges.items() if abs(getattr(drawn, name)) > limit + 1e-9}
        beyond |= {"jpeg"} if drawn.jpeg < 82 else set()
        if kind == "clean":
            assert not beyond
        elif kind != "mixed":
            assert beyond <= {kind}


def test_a_sweep_covers_its_range():
    drawn = {
        name: [getattr(draw_nuisance(name, np.random.default_rng([2, i])), name) for i in range(200)]
        for name in SWEEPS
        if name != "expression"
    }
    spans = {
        "yaw": (-80, 80),
        "pitch": (-45, 45),
        "blur": (0, 6),
        "noise": (0, 100),
        "darkness": (0, 0.97),
        "jpeg": (3, 98),
        "lowres": (1, 12),
        "light": (0.3, 0.98),
        "occlusion": (0, 0.85),
    }
    for name, (low, high) in spans.items():
        width = high - low
        assert low <= min(drawn[name]) < low + 0.06 * width, name
        assert high - 0.06 * width < max(drawn[name]) <= high, name


def test_degradations_do_what_their_numbers_say():
    grey = np.full((64, 64, 3), 120, np.float32)
    rng = np.random.default_rng(0)
    assert (degrade(grey, Nuisance(darkness=0.5), rng) == 60).all()
    noisy = degrade(grey, Nuisance(noise=10), rng).astype(float)
    assert noisy.std() == pytest.approx(10, rel=0.03)
    assert noisy.mean() == pytest.approx(120, abs=0.5)
    point = np.zeros((65, 65, 3), np.float32)
    point[32, 32] = 6000
    blurred = degrade(point, Nuisance(blur=2.0), rng).astype(float)[..., 0]
    columns = np.arange(65) - 32
    assert (blurred.sum(0) * columns**2).sum() / blurred.sum() == pytest.approx(4.0, rel=0.05)
    board = np.tile(np.array([[0, 200], [200, 0]], np.float32), (32, 32))[..., None].repeat(3, -1)
    assert (degrade(board, Nuisance(lowres=2.0), rng) == 100).all()
    assert grey.max() == 120 == grey.min()  # the input is not written to


@pytest.mark.parametrize("kind", ["edge", "bar", "blob", "hand"])
def test_occlusion_is_measured(kind):
    found = rendered(person(3))
    shares = []
    for wanted in (0.1, 0.3, 0.5, 0.7):
        covered, share = cover(found.image, found, (kind, wanted), np.random.default_rng(4))
        changed = np.abs(covered - found.image).max(-1) > 1
        assert (changed & (found.face > 0.5)).sum() / (found.face > 0.5).sum() == pytest.approx(share, abs=0.06)
        assert share == pytest.approx(wanted, abs=0.06)
        shares.append(share)
    assert shares == sorted(shares)


@pytest.mark.parametrize(("kind", "rows"), [("sunglasses", (0, 1)), ("mask", (3, 4))])
def test_worn_things_cover_the_right_landmarks(kind, rows):
    for pose in (Pose(), Pose(yaw=20, roll=15)):
        found = rendered(person(6), camera=frontal(pose))
        covered, share = cover(found.image, found, (kind, 0.0), np.random.default_rng(4))
        changed = np.abs(covered - found.image).max(-1) > 1
        hit = [bool(changed[round(y), round(x)]) for x, y in found.landmarks]
        assert [i for i in range(5) if hit[i]] == sorted({*rows, *((2,) if kind == "mask" else ())})
        assert 0.05 < share < 0.6


def test_photograph_reports_the_measured_occlusion():
    nuisance = replace(draw_clean(np.random.default_rng(1)), occlusion=0.4, occluder="mask")
    image, _, known = photograph(person(8), nuisance, 160, np.random.default_rng(2))
    assert image.shape == (160, 160, 3)
    assert image.dtype == np.uint8
    assert known.occlusion != 0.4
    assert replace(known, occlusion=0.4) == nuisance


# populations


@pytest.fixture(scope="module")
def rendered_once(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("faces")
    cfg = SyntheticConfig(seed=9, processes=1, train=SMALL, selection=SMALL, test=SMALL)
    render_populations(cfg, folder)
    return folder


@pytest.mark.parametrize("processes", [2, 3])
def test_the_same_bytes_whatever_the_number_of_processes(rendered_once, tmp_path, processes):
    render_populations(SyntheticConfig(seed=9, processes=processes, train=SMALL, selection=None, test=None), tmp_path)
    assert digests(tmp_path / "train") == digests(rendered_once / "train")
    assert len(digests(tmp_path / "train")) == 5 * 4 + 5


def test_another_seed_gives_other_people(rendered_once, tmp_path):
    one = PopulationConfig(identities=1, images=2)
    render_populations(SyntheticConfig(seed=10, processes=1, train=one, selection=None, test=None), tmp_path)
    assert digests(tmp_path)["train/id_000001/0001.jpg"] != digests(rendered_once)["train/id_000001/0001.jpg"]


def test_a_person_does_not_depend_on_how_many_there_are(rendered_once, tmp_path):
    one = PopulationConfig(identities=1, images=4)
    render_populations(SyntheticConfig(seed=9, processes=1, train=one, selection=None, test=None), tmp_path)
    mine, theirs = digests(tmp_path), digests(rendered_once)
    assert all(mine[name] == theirs[name] for name in mine if name.endswith(".jpg"))


def test_populations_share_nobody_and_tables_match_files(rendered_once):
    people = []
    for name in ("train", "selection", "test"):
        folder = rendered_once / name
        rows, landmarks = table(folder / "metadata.csv"), table(folder / "landmarks.csv")
        images = sorted(str(path.relative_to(folder)) for path in folder.rglob("*.jpg"))
        assert [row["path"] for row in rows] == [row["path"] for row in landmarks] == images
        assert [row["path"].split("/")[0] for row in rows] == [f"id_{int(row['identity']):06d}" for row in rows]
        people += [{row["identity"] for row in rows}]
        assert [row["kind"] for row in rows[:4]].count("clean") == 2
        assert all(0 <= float(row["occlusion"]) <= 1 and 1 <= int(row["jpeg"]) <= 100 for row in rows)
        points = np.array([[float(row[f"{axis}{i}"]) for i in range(1, 6) for axis in "xy"] for row in landmarks])
        assert ((points > 0) & (points < 160)).all()
    assert len(set.union(*people)) == 15


def test_the_index_reads_what_was_rendered(rendered_once):
    folder = rendered_once / "train"
    where = DatasetConfig(image_location=str(folder), landms_location=str(folder / "landmarks.csv"))
    index, coverage = build_identity_index(where)
    assert len(index) == coverage.landmarks.matched == 20 and index.landmarks.shape == (20, 5, 2)
    assert index.identities.tolist() == [identity for identity in range(5) for _ in range(4)]


def test_pairs_say_the_truth(rendered_once):
    rows = {row["path"]: row for row in table(rendered_once / "test" / "metadata.csv")}
    for name, kinds in (("pairs.txt", set(KINDS)), ("pairs_clean.txt", {"clean"})):
        lines = [line.split() for line in (rendered_once / "test" / name).read_text().splitlines()]
        assert {kind for a, b, _ in lines for kind in (rows[a]["kind"], rows[b]["kind"])} <= kinds
        assert all((rows[a]["identity"] == rows[b]["identity"]) == (same == "1") for a, b, same in lines)
        assert len({(a, b) for a, b, _ in lines}) == len(lines)
        assert sum(same == "1" for *_, same in lines) * 2 == len(lines) > 0


def test_pairs_are_as_many_as_there_can_be():
    members = [(f"{who}/{i}", str(who)) for who in range(4) for i in range(5)]
    pairs = draw_pairs(members, 1000, np.random.default_rng(0))
    assert len(pairs) == 2 * 20  # half of the 4 * 10 mated pairs, and as many others
    assert draw_pairs([("a", "1"), ("b", "2")], 5, np.random.default_rng(0)) == []


def test_kinds_take_turns():
    population = PopulationConfig(identities=10, images=20, clean=0.5, single=0.25)
    kinds = [image_kind(population, who, number) for who in range(1, 11) for number in range(1, 21)]
    assert kinds.count("clean") == 100
    assert kinds.count("mixed") == 50
    assert all(kinds.count(name) == 5 for name in SWEEPS)


def test_a_second_run_reuses_and_another_configuration_renders_anew(tmp_path, caplog):
    caplog.set_level(logging.INFO)
    task = Task("train", 1, 96, PopulationConfig(identities=2, images=2, pairs=1))
    folder = tmp_path / "train"
    (tmp_path / ".train.partial" / "id_000001").mkdir(parents=True)  # left by a killed run
    assert not render_population(task, folder, 1).reused
    before = digests(folder)
    assert render_population(task, folder, 1).reused
    assert not (tmp_path / ".train.partial").exists()
    (folder / "id_000001" / "0001.jpg").unlink()
    assert not render_population(task, folder, 1).reused
    assert digests(folder) == before
    assert not render_population(replace(task, seed=2), folder, 1).reused
    assert digests(folder) != before
    assert json.loads((folder / "manifest.json").read_text())["seed"] == 2
    assert caplog.messages == [
        f"{folder}: rendered anew, 3 of its 4 images are there",
        f"{folder}: rendered anew, other content: seed (was 1, is 2)",
    ]


def test_what_is_not_ours_is_left_alone(tmp_path):
    task = Task("train", 1, 96, PopulationConfig(identities=1, images=1))
    folder = tmp_path / "train"
    folder.mkdir()
    (folder / "holiday.jpg").write_bytes(b"mine")
    with pytest.raises(DataError, match="holds no rendered population"):
        render_population(task, folder, 1)
    (folder / "holiday.jpg").unlink()
    folder.rmdir()
    render_population(task, folder, 1)
    (folder / "labels.csv").write_text("mine")
    assert render_population(task, folder, 1).reused
    with pytest.raises(DataError, match=r"labels\.csv"):
        render_population(replace(task, seed=2), folder, 1)


def test_prepare_renders_from_a_configuration(tmp_path, capsys):
    config = tmp_path / "prepare.yaml"
    config.write_text(
        f"base: {{task: synthetic, save_path: {tmp_path / 'out'}}}\n"
        "synthetic: {seed: 4, processes: 1, train: {identities: 2, images: 2}, selection: null, test: null}\n"
    )
    assert prepare.main(["-c", str(config)]) == 0
    assert len(list((tmp_path / "out" / "train").rglob("*.jpg"))) == 4
    assert not (tmp_path / "out" / "test").exists()
    assert cv2.imread(str(tmp_path / "out" / "faces.png")).shape[2] == 3


def test_the_sheet_shows_one_row_for_each_person():
    sheet = contact_sheet(1, 1, 2, 48)
    assert sheet.shape == (18 + 2 * 48, 12 * 48, 3)
