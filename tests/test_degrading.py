"""prepare.py base.task=degrade: known degradations, the same for a seed, with everything that belongs to the images."""

import csv
from collections import Counter
from pathlib import Path

import cv2
import numpy as np
import pytest

import prepare
from data.alignment import TEMPLATE_112
from data.images.decode import decode_rgb
from data.sources.folder import list_folder
from data.tables.landmarks import read_landmarks, write_landmarks_csv
from jobs.degrading.degradation import GRADES, KINDS, PhotographedFace, degraded, draw_degradation, of_kinds
from jobs.degrading.folder import reference_probe_pairs
from synthetic.nuisance import Nuisance
from tests.helpers.faces import smooth_image, write_image
from utils.config.prepare import DegradeConfig
from utils.errors import DataError

PEOPLE, IMAGES = 4, 3
POINTS = TEMPLATE_112 * 0.8 + (20, 10)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    folder, rng = tmp_path_factory.mktemp("people"), np.random.default_rng(3)
    names = [f"id_{p}/{i}.png" for p in range(PEOPLE) for i in range(IMAGES)]
    for name in names:
        (folder / "images" / name).parent.mkdir(parents=True, exist_ok=True)
        write_image(folder / "images" / name, smooth_image(rng, 120, 140))
    write_landmarks_csv(folder / "landmarks.csv", names, [POINTS] * len(names))
    rows = "".join(f"{name},{row},{row / 10}\n" for row, name in enumerate(names))
    (folder / "known.csv").write_text(f"path,yaw,blur\n{rows}", encoding="utf-8")
    return folder


def degrade_there(folder: Path, out: Path, *more: str) -> int:
    (folder / "empty.yaml").write_text("base: {task: degrade, verbose: 0}\n", encoding="utf-8")
    landmarks = f"landmarks: {folder}/landmarks.csv"
    given = f"{{loc: {folder}/images, {landmarks}, metadata: {folder}/known.csv}}"
    return prepare.main(["-c", str(folder / "empty.yaml"), f"base.save_path={out}", f"degrade={given}", *more])


def table(path: Path) -> list[dict[str, str]]:
    with open(path, encoding="utf-8", newline="") as stream:
        return list(csv.DictReader(stream))


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def copies(folder, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("out") / "copies"
    assert degrade_there(folder, out) == 0
    return out


def test_originals_copies_and_tables_belong_together(folder, copies):
    names = [f"id_{p}/{i}.png" for p in range(PEOPLE) for i in range(IMAGES)]
    for name in names:
        assert (copies / "reference" / name).read_bytes() == (folder / "images" / name).read_bytes()
        copy = (copies / "probe" / f"{name}.jpg").read_bytes()
        assert copy[:2] == b"\xff\xd8" and decode_rgb(copy).shape == (120, 140, 3)
    listed = {row["path"]: row for row in table(copies / "metadata.csv")}
    assert listed.keys() == {f"reference/{name}" for name in names} | {f"probe/{name}.jpg" for name in names}
    for row, name in enumerate(names):
        probe, reference = listed[f"probe/{name}.jpg"], listed[f"reference/{name}"]
        assert 1 <= int(probe["grade"]) <= GRADES and set(probe["kind"].split("+")) <= set(KINDS)
        assert reference["kind"] == "clean" and reference["grade"] == "0"
        for one in (probe, reference):
            assert one["identity"] == name[:4] and one["yaw"] == str(row) and float(one["source_blur"]) == row / 10
    found = read_landmarks(copies / "landmarks.csv")
    assert sorted(found.names) == sorted(listed) and np.allclose(found.points, POINTS, atol=1e-4)
    assert table(copies / "failures.csv") == []
    sheet = cv2.imread(str(copies.with_name(f"{copies.name}.png")))
    assert sheet.shape == (5 * 112, (1 + len(KINDS)) * 112, 3)


def test_pairs_hold_every_picture_with_another_one_of_the_same_person(copies):
    pairs = [line.split() for line in (copies / "pairs.txt").read_text(encoding="utf-8").splitlines()]
    kept = Counter()
    for reference, probe, mated in pairs:
        assert reference.startswith("reference/") and probe.startswith("probe/")
        (one, first), (other, second) = reference.split("/")[1:], probe.split("/")[1:]
        assert (one == other) == (mated == "1") and not (one == other and first == second.removesuffix(".jpg"))
        kept[mated] += 1
    assert kept["1"] == PEOPLE * IMAGES * (IMAGES - 1) and len({tuple(pair) for pair in pairs}) == len(pairs)
    assert kept["0"] == PEOPLE * (PEOPLE - 1) * IMAGES**2 // 2  # half of all there are: the wanted number is larger


def test_a_seed_decides_every_byte_whatever_the_threads(folder, copies, tmp_path):
    assert degrade_there(folder, tmp_path / "again", "degrade.num_workers=1") == 0
    assert degrade_there(folder, tmp_path / "other", "degrade.seed=1") == 0
    again, other, first = (files(place) for place in (tmp_path / "again", tmp_path / "other", copies))
    assert again == first
    changed = [name for name in first if name.startswith("probe/") and other[name] != first[name]]
    assert len(changed) == PEOPLE * IMAGES


def test_a_training_folder_keeps_names_and_the_share_of_originals(folder, tmp_path):
    out = tmp_path / "train"
    assert degrade_there(folder, out, "degrade.references=0", "degrade.share=0.5", "degrade.seed=4") == 0
    rows = table(out / "metadata.csv")
    assert sorted(list_folder(out).names) == sorted(row["path"] for row in rows)  # no other picture
    assert cv2.imread(str(tmp_path / "train.png")).shape == (5 * 112, (1 + len(KINDS)) * 112, 3)
    clean = [row for row in rows if row["kind"] == "clean"]
    assert 0 < len(clean) < len(rows) == PEOPLE * IMAGES and not (out / "pairs.txt").exists()
    for row in rows:
        original = folder / "images" / row["path"].removesuffix(".jpg")
        assert ((out / row["path"]).read_bytes() == original.read_bytes()) == (row in clean)


def test_the_same_request_is_reused_and_a_strange_folder_refused(folder, copies, tmp_path, capsys):
    before = (copies / "pairs.txt").stat().st_mtime_ns
    assert degrade_there(folder, copies) == 0
    assert (copies / "pairs.txt").stat().st_mtime_ns == before
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "letter.txt").write_text("keep me", encoding="utf-8")
    with pytest.raises(DataError, match="holds something else"):
        degrade_there(folder, tmp_path / "mine")
    assert (tmp_path / "mine" / "letter.txt").read_text(encoding="utf-8") == "keep me"


def test_what_cannot_be_copied_is_named(folder, tmp_path):
    (tmp_path / "images/id_9").mkdir(parents=True)
    (tmp_path / "images/id_9/0.jpg").write_bytes(b"no picture")
    write_image(tmp_path / "images/id_9/1.png", smooth_image(np.random.default_rng(1), 112, 112))
    (tmp_path / "c.yaml").write_text(
        f"base: {{task: degrade}}\ndegrade: {{loc: {tmp_path}/images}}\n", encoding="utf-8"
    )
    assert prepare.main(["-c", str(tmp_path / "c.yaml"), f"base.save_path={tmp_path}/out", "base.verbose=0"]) == 0
    assert [row["path"] for row in table(tmp_path / "out/failures.csv")] == ["id_9/0.jpg"]
    assert [row["path"] for row in table(tmp_path / "out/metadata.csv")] == [
        "probe/id_9/1.png.jpg",
        "reference/id_9/1.png",
    ]
    given = ["-c", str(tmp_path / "c.yaml"), f"base.save_path={tmp_path}/photographs", "base.verbose=0"]
    write_image(tmp_path / "images/id_9/1.png", smooth_image(np.random.default_rng(1), 150, 150))
    with pytest.raises(DataError, match=r"1 of 1 sampled images are no aligned crops .*\(degrade\.landmarks\)"):
        prepare.main(given)
    assert prepare.main([*given, "degrade.accept_unusual=1"]) == 0


def test_grades_grow_and_blur_counts_in_units_of_the_face():
    rng = np.random.default_rng(0)
    graded = [of_kinds(("blur",), grade, 0.8, rng).nuisance.blur for grade in range(1, GRADES + 1)]
    assert graded == pytest.approx([6 * 0.8 * grade / 5 for grade in range(1, GRADES + 1)])
    image = smooth_image(np.random.default_rng(5), 120, 140)
    image[40:80, 60:90] = 255
    large, points = cv2.resize(image, None, fx=3, fy=3, interpolation=cv2.INTER_LINEAR), POINTS
    small_copy, once = degraded(image, points, Nuisance(blur=2.0, lowres=3.0), rng)
    large_copy, thrice = degraded(large, points * 3 + 1, Nuisance(blur=2.0, lowres=3.0), rng)
    assert thrice.blur == pytest.approx(3 * once.blur) and thrice.lowres == pytest.approx(3 * once.lowres)
    assert once.blur == pytest.approx(2 * np.linalg.norm(points[1] - points[0]) / 33)
    shrunk = cv2.resize(decode_rgb(large_copy), (140, 120), interpolation=cv2.INTER_AREA)
    assert np.abs(shrunk.astype(float) - decode_rgb(small_copy)).mean() < 3


def test_what_covers_a_photographed_face_covers_about_the_share_asked_for():
    rng = np.random.default_rng(1)
    image = np.full((200, 300, 3), 128, np.uint8)
    points = TEMPLATE_112 * 1.2 + (80, 30)
    area = PhotographedFace.of(points, image.shape).face
    outside = np.ones_like(area)
    cv2.ellipse(outside, (147, 112), (51, 65), 0, 0, 360, 0, -1)  # centre (56, 68) and axes (40, 52), times 1.2
    assert area.sum() == pytest.approx(np.pi * 40 * 52 * 1.44, rel=0.03) and (area * outside).sum() == 0
    for _ in range(12):
        drawn = of_kinds(("occlusion",), 3, 0.8, rng).nuisance
        assert drawn.occlusion == pytest.approx(0.85 * 0.48)
        _, measured = degraded(image, points, drawn, rng)
        assert measured.occluder in ("edge", "bar", "blob") and measured.occlusion == pytest.approx(0.408, abs=0.05)


def test_draws_follow_the_shares_asked_for():
    cfg, rng = DegradeConfig(loc="x", share=0.5, two=0.25), np.random.default_rng(2)
    drawn = [draw_degradation(cfg, rng) for _ in range(2000)]
    counts = Counter(len(one.kinds) for one in drawn)
    assert counts[0] == pytest.approx(1000, abs=90) and counts[2] == pytest.approx(250, abs=60)
    assert Counter(kind for one in drawn for kind in one.kinds).keys() == set(KINDS)
    assert {one.grade for one in drawn if one.kinds} == set(range(1, GRADES + 1))


def test_pairs_of_one_person_are_capped():
    cfg = DegradeConfig(loc="x", mated_per_identity=5, non_mated=7)
    pairs = reference_probe_pairs(["a"] * 6 + ["b"] * 2, cfg)
    mated = [pair for pair in pairs if pair[2]]
    assert Counter(first < 6 for first, _, _ in mated) == {True: 5, False: 2}
    assert len(pairs) - len(mated) == 7 and all((a < 6) != (b < 6) for a, b, same in pairs if not same)
