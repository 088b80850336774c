"""data/index/build.py: images meet their landmarks and labels, and what does not meet is named."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from data.index.build import FaceIndex, build_index
from data.index.coverage import Coverage
from data.sources.folder import FolderSource
from data.tables.landmarks import read_landmarks
from tests.helpers.index import LABELS, NAMES, SORTED, Faces, check
from utils.config.train import DatasetConfig
from utils.errors import DataError


@pytest.fixture
def faces(tmp_path):
    return Faces(tmp_path)


@pytest.mark.parametrize("prefix", ["", "train/", "test/", "/data/vggface2/train/", "./"])
@pytest.mark.parametrize("suffix", [True, False])
def test_images_meet_their_rows_under_any_root(faces, prefix, suffix):
    faces.write(prefix, suffix=suffix)
    index, coverage = build_index(faces.config())
    check(index)
    assert index.source.describe(0) == str(faces.root / SORTED[0]) and os.path.isfile(index.source.describe(4))
    assert (coverage.images, coverage.used, coverage.landmarks.matched, coverage.labels.matched) == (5, 5, 5, 5)


def test_images_below_train_meet_names_without_it(tmp_path):
    faces = Faces(tmp_path, [f"train/{name}" for name in NAMES])
    index, coverage = build_index(faces.config())
    assert list(index.names) == [f"train/{name}" for name in SORTED] and coverage.labels.image_folders == 1
    assert index.labels.tolist() == [LABELS[name] for name in SORTED]
    index, _ = build_index(faces.config(key_root="train"))
    assert index.labels.tolist() == [LABELS[name] for name in SORTED]


def test_any_folder_name_matches_and_nothing_ends_in_a_division_by_zero(tmp_path):
    """Fidelity 8: the released code wants the literal vggface2/ and divides by zero elsewhere."""
    (tmp_path / "my photographs").mkdir()
    faces = Faces(tmp_path / "my photographs")
    check(build_index(faces.config())[0])
    faces.write("elsewhere/", labels=NAMES, landmarks=NAMES)
    with pytest.raises(DataError) as caught:
        build_index(faces.config(key_root="nowhere"))
    message = str(caught.value)
    assert "labels.csv: none of the 5 images has a quality label" in message
    assert f"{SORTED[0]!r}" in message and "'elsewhere/n1/a b.jpg'" in message and "leave it out" in message


def test_names_in_another_case_are_named_as_such(faces):
    upper = [name.upper() for name in NAMES]
    (faces.root.parent / "upper.csv").write_text("".join(f'"{name}",0.5\n' for name in upper))
    with pytest.raises(DataError, match=r"they differ in upper and lower case: rename one of them$"):
        build_index(faces.config(quality_location=str(faces.root.parent / "upper.csv")))
    with pytest.raises(DataError, match=r"is a folder, not a file; check dataset\.quality_location$"):
        build_index(faces.config(quality_location=str(faces.root)))


def test_missing_rows_stop_the_run_or_are_left_out(faces):
    faces.write(landmarks=NAMES[:4], labels=NAMES[1:])
    with pytest.raises(DataError) as caught:
        build_index(faces.config())
    assert "landmarks.csv: 1 of 5 images have no landmarks, first: 'n10/c.jpeg'" in str(caught.value)
    index, coverage = build_index(faces.config(on_missing="skip"))
    check(index, [name for name in SORTED if name in NAMES[1:4]])
    assert coverage.landmarks.unmatched == ("n10/c.jpeg",) and coverage.labels.unmatched == ("n1/a b.jpg",)
    assert coverage.lines()[-1] == "in use: 3 images, 2 left out"
    faces.write(landmarks=NAMES[:2], labels=NAMES[2:])
    with pytest.raises(DataError, match="no image has both"):
        build_index(faces.config(on_missing="skip"))


def test_rows_without_an_image_do_no_harm(tmp_path):
    faces = Faces(tmp_path, NAMES[:2])
    index, coverage = build_index(faces.config())
    check(index, ["n1/a b.jpg", "n1/b.JPG"])
    assert (coverage.labels.rows, coverage.labels.matched) == (5, 2)


def test_aligned_crops_need_no_landmarks(faces):
    index, coverage = build_index(faces.config(landms_location="template"))
    assert index.landmarks is None and coverage.landmarks is None and len(index) == 5
    assert coverage.aligned_copies and "the images are aligned copies" in "\n".join(coverage.lines())
    assert Coverage.from_dict(coverage.to_dict()) == coverage and not build_index(faces.config())[1].aligned_copies
    index, coverage = build_index(faces.config(landms_location="template", quality_location=None))
    assert index.labels is None and coverage.lines() == [f"5 images in {faces.root}"]


def test_report(faces):
    (faces.root / "n1/notes.txt").touch()
    faces.write("train/", labels=NAMES[:1])
    _, coverage = build_index(faces.config(on_missing="skip", higher_is_better=0))
    assert coverage.lines() == [
        f"5 images in {faces.root} (1 other file: 1 .txt)",
        f"landmarks: 5 of 5 images matched, 5 rows in {faces.folder}/landmarks.csv",
        "landmarks: matched without the first 1 folders of the file's names and 0 of the images' "
        "(the file starts with 'train/n1/a b.jpg')",
        f"labels: 1 of 5 images matched, 1 rows in {faces.folder}/labels.csv",
        f"labels: took column 'quality' of path, quality ({faces.folder}/labels.csv)",
        "labels: matched without the first 1 folders of the file's names and 0 of the images' "
        "(the file starts with 'train/n1/a b.jpg')",
        "labels: no row for 'n1/b.JPG', 'n10/c.jpeg', 'n2/a.png' and 1 more",
        "labels: from 2 to 2, lower is better (negated), scaling none",
        "in use: 1 images, 4 left out",
    ]
    assert Coverage.from_dict(coverage.to_dict()) == coverage


def test_an_empty_and_a_missing_folder(tmp_path):
    faces = Faces(tmp_path)
    shutil.rmtree(faces.root)
    with pytest.raises(DataError, match="no such folder of images"):
        build_index(faces.config())
    faces.root.mkdir()
    (faces.root / "a.txt").touch()
    with pytest.raises(DataError, match=r"no image below this folder \(1 other file: 1 .txt\)"):
        build_index(faces.config())


def test_missing_files_are_named(faces):
    for key in ("landms_location", "quality_location"):
        with pytest.raises(DataError, match=r"none\.csv: no such file"):
            build_index(faces.config(**{key: str(faces.folder / "none.csv")}))


def test_ambiguous_names_carry_the_file(tmp_path):
    faces = Faces(tmp_path, ["train/n1/a b.jpg", "test/n1/a b.jpg"])
    said = r"labels\.csv: 'n1/a b\.jpg' may mean 'test/n1/a b\.jpg' or 'train/n1/a b\.jpg'"
    with pytest.raises(DataError, match=said):
        build_index(faces.config())


def test_nothing_depends_on_the_hash_seed(faces):
    code = (
        "import sys; from data.index.build import build_index; from data.index.split import split;"
        "from utils.config.train import DatasetConfig;"
        f"index, _ = build_index(DatasetConfig(**{faces.config().model_dump(mode='json')!r}));"
        "print(list(index.names), index.labels.tolist(), [rows.tolist() for rows in split(index.labels, 0.5)])"
    )
    outputs = {
        subprocess.run(
            [sys.executable, "-c", code], env={**os.environ, "PYTHONHASHSEED": seed}, capture_output=True, check=True
        ).stdout
        for seed in ("0", "1")
    }
    assert len(outputs) == 1


def test_taken_from_strings_the_index_works_without_files():
    from data.tables.names import Names

    index = FaceIndex(FolderSource("/r", Names.from_strings(["a.jpg", "b.jpg"])), labels=np.zeros(2, np.float32))
    assert len(index) == 2 and index.source.describe(1) == "/r/b.jpg"


SHARED = Path(__file__).resolve().parents[2] / "shared" / "faces"


@pytest.mark.skipif(not SHARED.is_dir(), reason="the shared photographs are not here")
@pytest.mark.parametrize("root", [SHARED / "images", SHARED])
def test_real_photographs_are_matched_to_the_last(root):
    config = DatasetConfig(
        image_location=str(root),
        landms_location=str(SHARED / "landmarks.csv"),
        quality_location=str(SHARED / "labels_lightqnet.csv"),
    )
    index, coverage = build_index(config)
    assert len(index) == coverage.images == coverage.landmarks.matched == coverage.labels.matched == 6921
    assert index.labels.mean() == pytest.approx(0.946, abs=5e-4)
    assert index.labels.std() == pytest.approx(0.047, abs=5e-4)
    table = read_landmarks(SHARED / "landmarks.csv")
    row = next(row for row, name in enumerate(table.names) if name == os.path.join(*Path(index.names[100]).parts[-2:]))
    assert np.array_equal(index.landmarks[100], table.points[row])
    assert os.path.isfile(index.source.describe(100))
