"""data/index/build.py: join, coverage, scaling, split, identities, cache, pickling."""

import multiprocessing
import os
import pickle
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data.index.build import FaceIndex, build_identity_index, build_index
from data.index.coverage import Coverage, LabelScaling
from data.index.identities import find_identities, folder_remarks
from data.index.label_check import odd_labels
from data.index.split import split
from data.sources.folder import FolderSource
from data.tables.landmarks import read_landmarks
from data.tables.names import Names
from utils.config.train import DatasetConfig
from utils.errors import DataError
from utils.store import DamagedEntry, read_entry

NAMES = ["n1/a b.jpg", "n1/b.JPG", "n2/a.png", "n2/é,x.webp", "n10/c.jpeg"]
SORTED = sorted(NAMES, key=str.encode)
LABELS = {"n1/a b.jpg": 2.0, "n1/b.JPG": 4.0, "n2/a.png": 1.0, "n2/é,x.webp": 3.0, "n10/c.jpeg": 3.0}


def points(row):
    return np.arange(10, dtype=np.float32).reshape(5, 2) + row


class Faces:
    """A folder of (empty) image files with its landmark and label files."""

    def __init__(self, folder, names=NAMES):
        self.folder, self.root = folder, folder / "images"
        for name in names:
            (self.root / name).parent.mkdir(parents=True, exist_ok=True)
            (self.root / name).touch()
        self.write()
        self.age()

    def write(self, prefix="", landmarks=NAMES, labels=NAMES, suffix=True):
        def key(name):
            return prefix + (name if suffix else os.path.splitext(name)[0])

        with open(self.folder / "landmarks.csv", "w") as stream:
            for name in landmarks:
                stream.write(f'"{key(name)}",{",".join(map(str, points(NAMES.index(name)).ravel()))}\n')
        with open(self.folder / "labels.csv", "w") as stream:
            stream.write("path,quality\n" + "".join(f'"{key(name)}",{LABELS[name]}\n' for name in labels))

    def age(self):
        """Make every folder look unchanged for a minute, as data sets are."""
        for folder, _, _ in os.walk(self.root):
            os.utime(folder, (time.time() - 60.5,) * 2)

    def config(self, **options):
        defaults = {
            "image_location": str(self.root),
            "landms_location": str(self.folder / "landmarks.csv"),
            "quality_location": str(self.folder / "labels.csv"),
            "label_scaling": "none",
        }
        return DatasetConfig(**(defaults | options))


@pytest.fixture
def faces(tmp_path):
    return Faces(tmp_path)


def check(index, names=SORTED):
    assert list(index.names) == names and len(index) == len(names)
    assert index.landmarks.dtype == np.float32 and index.labels.dtype == np.float32
    assert np.array_equal(index.landmarks, np.stack([points(NAMES.index(name)) for name in names]))
    assert index.labels.tolist() == [LABELS[name] for name in names]


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
    assert f"{SORTED[0]!r}" in message and "'elsewhere/n1/a b.jpg'" in message and "dataset.key_root" in message


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


@pytest.mark.parametrize("cell", ["nan", "", "-1"])
def test_a_label_that_is_missing_in_its_row_follows_on_missing(faces, cell):
    text = (faces.folder / "labels.csv").read_text().replace('"n2/a.png",1.0', f'"n2/a.png",{cell}')
    (faces.folder / "labels.csv").write_text(text)
    with pytest.raises(DataError, match=r"1 of 5 images have no quality label, first: 'n2/a\.png'"):
        build_index(faces.config(missing_value=-1))
    index, coverage = build_index(faces.config(missing_value=-1, on_missing="skip"))
    assert list(index.names) == [name for name in SORTED if name != "n2/a.png"]
    assert "labels: 1 of 5 rows hold no value, first 'n2/a.png', line 4 " in "\n".join(coverage.lines())


def test_marks_of_failure_among_the_labels_are_warned_of():
    rng = np.random.default_rng(0)
    labels = rng.uniform(0.2, 0.9, 500)
    minmax = LabelScaling("minmax", True, 0, 1)
    assert odd_labels(labels, minmax) == [] and odd_labels(rng.normal(0, 1, 5000), minmax) == []
    assert odd_labels(rng.normal(0.946, 0.047, 5000).clip(0.1, 1), minmax) == []  # LightQNet's: clipped, not marked
    assert odd_labels(rng.integers(0, 2, 500).astype(float), minmax) == []  # classes
    few = labels.copy()
    few[::50] = -1
    (said,) = odd_labels(few, minmax)
    assert said.startswith("10 labels are -1, far from the others (0.2") and said.endswith("set missing_value: -1")
    assert odd_labels(np.where(few == -1, 7, few))[0].startswith("10 labels are 7, far")
    one = np.append(labels, -1000)
    (said,) = odd_labels(one, minmax)
    assert said.startswith("min-max from -1000 to 0.8") and "leaves most labels within 1 %" in said
    assert odd_labels(one, LabelScaling("rank", True, 0, 1)) == odd_labels(one) == []


@pytest.mark.parametrize(
    ("scaling", "higher", "expected"),
    [
        ("none", 1, [2, 4, 3, 1, 3]),
        ("none", 0, [-2, -4, -3, -1, -3]),
        ("minmax", 1, [1 / 3, 1, 2 / 3, 0, 2 / 3]),
        ("minmax", 0, [2 / 3, 0, 1 / 3, 1, 1 / 3]),
        ("rank", 1, [0.25, 1, 0.625, 0, 0.625]),
        ("rank", 0, [0.75, 0, 0.375, 1, 0.375]),
    ],
)
def test_label_scaling(faces, scaling, higher, expected):
    index, coverage = build_index(faces.config(label_scaling=scaling, higher_is_better=higher))
    assert index.labels == pytest.approx(expected) and index.labels.dtype == np.float32
    assert coverage.scaling == LabelScaling(scaling, bool(higher), 1.0, 4.0)


def test_constants_come_from_the_images_in_use(faces):
    faces.write(landmarks=NAMES[2:])
    index, coverage = build_index(faces.config(label_scaling="minmax", on_missing="skip"))
    assert (coverage.scaling.low, coverage.scaling.high) == (1.0, 3.0) and sorted(index.labels.tolist()) == [0, 1, 1]


def test_equal_labels_cannot_be_scaled(faces):
    (faces.folder / "labels.csv").write_text("path,quality\n" + "".join(f'"{name}",0.5\n' for name in NAMES))
    for scaling in ("minmax", "rank"):
        with pytest.raises(DataError, match=r"all 5 labels in use are 0\.5"):
            build_index(faces.config(label_scaling=scaling))
    assert build_index(faces.config(label_scaling="none"))[0].labels.tolist() == [0.5] * 5


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


@settings(deadline=None)
@given(st.lists(st.sampled_from([0.0, 0.25, 0.5, 1.0]), max_size=40), st.floats(0, 0.9))
def test_split_holds_out_every_nth_of_the_order(labels, val_percent):
    train, val = split(np.array(labels, np.float32), val_percent)
    assert train.dtype == val.dtype == np.int64
    assert sorted([*train, *val]) == list(range(len(labels)))
    order = sorted(range(len(labels)), key=lambda row: (labels[row], row))
    if val_percent == 0 or len(labels) < 2:
        assert len(val) == 0
    else:
        step = max(2, round(1 / val_percent)) if val_percent > 1e-6 else 10**9
        assert val.tolist() == sorted(order[::step]) and len(val) >= 1 and len(train) >= 1


def test_split_of_a_known_list():
    labels = np.array([0.9, 0.1, 0.5, 0.3, 0.7, 0.2], np.float32)
    assert split(labels, 1 / 3).val.tolist() == [1, 2]  # order 1 5 3 2 4 0, every third
    assert split(labels, 0.01).val.tolist() == [1]


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


def test_identities_are_the_parent_folders_sorted_by_name(faces):
    index, coverage = build_identity_index(faces.config(landms_location=None))
    assert list(index.names) == SORTED and list(index.classes) == ["n1", "n10", "n2"]
    assert index.identities.dtype == np.int32
    assert [index.classes[i] for i in index.identities] == [os.path.dirname(name) for name in SORTED]
    assert index.labels is None and index.landmarks is None and "identities: 3" in coverage.lines()


def identities(names, rule):
    found = find_identities(Names.from_strings(names), rule)
    assert found.rows.dtype == np.int32 and list(found.classes) == sorted(set(found.classes))
    return [found.classes[row] for row in found.rows], folder_remarks(found, rule, "dataset.identity")


SESSIONS = ["b/1/x.jpg", "a/1/x.jpg", "a/2/y.jpg", "b/1/z.jpg"]


def test_people_in_sessions_are_told_by_the_rule_the_user_names(tmp_path):
    people = ["b", "a", "a", "b"]
    found, (said,) = identities(SESSIONS, "parent")
    assert found == ["b/1", "a/1", "a/2", "b/1"]
    assert "each of the 3 folders with images counts as a person, while there are 2 folders at the top" in said
    assert said.endswith("set dataset.identity: top")
    (tmp_path / "who.csv").write_text("name,person\n" + "".join(f"set/{n},{p}\n" for n, p in zip(SESSIONS, people)))
    for rule in ("top", r"^([^/]+)/", "[ab]", str(tmp_path / "who.csv")):
        assert identities(SESSIONS, rule) == (people, [])
    assert identities(["a/x.jpg", "b/x.jpg"], "parent") == (["a", "b"], [])
    assert "'a' holds images and folders" in identities(["a/x.jpg", "a/2/x.jpg"], "parent")[1][0]


def test_an_image_without_an_identity_is_named(tmp_path):
    (tmp_path / "who.csv").write_text("b/1/x.jpg,b\n")
    (tmp_path / "wide.csv").write_text("b/1/x.jpg,b,1\n")
    for rule, said in {
        "^(q)/": "finds nothing in 'b/1/x.jpg'", "(": "nor an expression", str(tmp_path / "none.csv"): "cannot be read",
        str(tmp_path / "who.csv"): "3 images have no identity, first 'a/1/x.jpg'",
        str(tmp_path / "wide.csv"): "expected two columns",
    }.items():  # fmt: skip
        with pytest.raises(DataError, match=re.escape(said)):
            identities(SESSIONS, rule)


def test_identities_are_contiguous_after_images_were_left_out(faces):
    faces.write(landmarks=["n2/a.png", "n1/b.JPG"])
    index, coverage = build_identity_index(faces.config(on_missing="skip"))
    assert list(index.classes) == ["n1", "n2"] and index.identities.tolist() == [0, 1] and coverage.classes == 2
    assert np.array_equal(index.landmarks, np.stack([points(1), points(2)]))


def test_nested_folders_and_images_without_a_folder(tmp_path):
    faces = Faces(tmp_path, ["a/x/1.jpg", "a/1.jpg", "a-b/1.jpg", "a/x.jpg", "a/x/2.jpg"])
    config = faces.config(landms_location=None)
    index, _ = build_identity_index(config)
    assert [(name, index.classes[i]) for name, i in zip(index.names, index.identities, strict=True)] == [
        ("a-b/1.jpg", "a-b"), ("a/1.jpg", "a"), ("a/x.jpg", "a"), ("a/x/1.jpg", "a/x"), ("a/x/2.jpg", "a/x"),
    ]  # fmt: skip
    (faces.root / "0.jpg").touch()
    with pytest.raises(DataError, match="images lie directly in this folder"):
        build_identity_index(config)


# ---- cache


def entries(cache):
    return sorted(Path(cache).glob("index-*"))


def same(one, two):
    assert list(one.names) == list(two.names) and one.names.digest() == two.names.digest()
    assert one.source.location == two.source.location
    for field in ("landmarks", "labels", "identities"):
        a, b = getattr(one, field), getattr(two, field)
        assert (a is None) == (b is None) and (a is None or (a.dtype == b.dtype and a.tobytes() == b.tobytes()))
    assert (one.classes is None) == (two.classes is None)
    assert one.classes is None or list(one.classes) == list(two.classes)


@pytest.mark.parametrize("build", [build_index, build_identity_index])
def test_with_without_and_from_the_cache_everything_is_the_same(faces, tmp_path, build):
    plain, report = build(faces.config())
    config = faces.config(cache=str(tmp_path / "cache"))
    first, first_report = build(config)
    assert len(entries(config.cache)) == 1
    stamps = {path: path.stat().st_mtime_ns for path in entries(config.cache)[0].iterdir()}
    again, again_report = build(config)
    same(plain, first)
    same(plain, again)
    assert report == first_report == again_report
    assert stamps == {path: path.stat().st_mtime_ns for path in entries(config.cache)[0].iterdir()}
    assert again.cache == str(entries(config.cache)[0])


def changed(faces, cache):
    return build_index(faces.config(cache=str(cache), on_missing="skip"))[0]


def test_every_change_of_the_inputs_is_seen(faces, tmp_path):
    cache = tmp_path / "cache"
    check(changed(faces, cache))
    text = (faces.folder / "labels.csv").read_text()
    stamp = (faces.folder / "labels.csv").stat()
    (faces.folder / "labels.csv").write_text(text.replace("4.0", "5.0"))
    os.utime(faces.folder / "labels.csv", ns=(stamp.st_atime_ns, stamp.st_mtime_ns))  # same size, same time
    assert changed(faces, cache).labels.max() == 5
    (faces.folder / "labels.csv").write_text(text)
    os.unlink(faces.root / NAMES[0])
    check(changed(faces, cache), [name for name in SORTED if name != NAMES[0]])
    (faces.root / NAMES[0]).touch()
    faces.age()
    check(changed(faces, cache))
    (faces.root / "n1/new").mkdir()
    faces.age()
    check(changed(faces, cache))
    (faces.root / "n1/new/d.jpg").touch()
    index, coverage = build_index(faces.config(cache=str(cache), on_missing="skip"))
    assert coverage.images == 6 and len(index) == 5


def test_options_have_entries_of_their_own(faces, tmp_path):
    cache = str(tmp_path / "cache")
    cases = [{"label_scaling": "rank"}, {"higher_is_better": 0}, {"key_root": ""}, {"landms_location": "template"}]
    for options in [{}, *cases]:
        same(build_index(faces.config(**options))[0], build_index(faces.config(cache=cache, **options))[0])
    assert len(entries(cache)) == 5
    faces.write(landmarks=NAMES[1:])
    assert len(build_index(faces.config(cache=cache, on_missing="skip"))[0]) == 4
    with pytest.raises(DataError, match="1 of 5 images have no landmarks"):
        build_index(faces.config(cache=cache))  # what is stored does not hide what is missing


def test_a_folder_changed_this_moment_is_not_stored(faces, tmp_path):
    (faces.root / "n1").touch()
    check(changed(faces, tmp_path / "cache"))
    assert entries(tmp_path / "cache") == []


@pytest.mark.parametrize("damage", ["flip", "cut", "remove", "empty", "facts"])
def test_a_damaged_entry_is_built_anew(faces, tmp_path, damage):
    cache = tmp_path / "cache"
    changed(faces, cache)
    folder = entries(cache)[0]
    for path in sorted(folder.glob("*.npy")):
        content = path.read_bytes()
        if damage == "flip":
            path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
        elif damage == "cut":
            path.write_bytes(content[:-1])
        elif damage == "empty":
            path.write_bytes(b"")
        elif damage == "remove":
            path.unlink()
        else:
            (folder / "facts.json").write_text("{}")
        with pytest.raises((FileNotFoundError, DamagedEntry)):
            read_entry(folder)
        check(changed(faces, cache))
        read_entry(folder)


def test_a_cache_that_cannot_be_written_is_a_warning(faces, tmp_path, caplog):
    caplog.set_level("WARNING")
    (tmp_path / "cache").write_text("a file")
    check(changed(faces, tmp_path / "cache"))
    assert "the index cannot be stored" in caplog.text


def test_pickling_sends_the_place_of_a_stored_index_and_the_content_of_another(faces, tmp_path):
    plain, stored = build_index(faces.config())[0], changed(faces, tmp_path / "cache")
    for index in (plain, stored):
        back = pickle.loads(pickle.dumps(index))
        same(index, back)
        for array in (index.landmarks, index.labels):
            with pytest.raises(ValueError, match="read-only"):
                array += 1
    assert len(pickle.dumps(stored)) < 400
    shutil.rmtree(tmp_path / "cache")
    with pytest.raises(DataError, match="gone while it is in use"):
        pickle.loads(pickle.dumps(stored))


def build_in_process(config, queue):
    queue.put(build_index(config)[0].labels.tolist())


def test_processes_may_build_at_the_same_time(faces, tmp_path):
    context = multiprocessing.get_context("fork")
    queue, config = context.Queue(), faces.config(cache=str(tmp_path / "cache"))
    workers = [context.Process(target=build_in_process, args=(config, queue)) for _ in range(4)]
    for worker in workers:
        worker.start()
    results = [queue.get(timeout=60) for _ in workers]
    for worker in workers:
        worker.join()
    assert results == [[LABELS[name] for name in SORTED]] * 4
    assert os.listdir(tmp_path / "cache") == [entries(tmp_path / "cache")[0].name]


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
