"""data/index/build.py: a stored index is the same as a built one; every change and damage builds it anew."""

import os
import pickle
import shutil
from pathlib import Path

import pytest

from data.index.build import build_identity_index, build_index
from tests.helpers import processes
from tests.helpers.index import LABELS, NAMES, SORTED, Faces, check
from utils.errors import DataError
from utils.store import DamagedEntry, read_entry


@pytest.fixture
def faces(tmp_path):
    return Faces(tmp_path)


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
    context = processes.forkserver()
    queue, config = context.Queue(), faces.config(cache=str(tmp_path / "cache"))
    workers = [context.Process(target=build_in_process, args=(config, queue)) for _ in range(4)]
    for worker in workers:
        worker.start()
    results = [queue.get(timeout=60) for _ in workers]
    for worker in workers:
        worker.join()
    assert results == [[LABELS[name] for name in SORTED]] * 4
    assert os.listdir(tmp_path / "cache") == [entries(tmp_path / "cache")[0].name]
