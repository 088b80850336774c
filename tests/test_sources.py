"""Image sources: names in order, the bytes of each row, what messages call it, fingerprints that know a move."""

import os
import pickle
import shutil
import tarfile
import zipfile

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from data.images.decode import ImageError
from data.sources.folder import list_folder
from data.sources.lists import open_list
from data.sources.memory import MemorySource
from data.sources.recordio import open_records
from data.sources.registry import open_source
from data.tables.names import Names
from tests.helpers.listing import listed
from tests.helpers.recognition import write_face_records, write_identities
from utils.errors import DataError

FILES = {"b/2.jpg": b"two", "b.png": b"bee", "b/a/3.webp": b"", "n\nl.bmp": b"line", "ä.tif": b"umlaut" * 1000}
SORTED = sorted(FILES, key=os.fsencode)


@pytest.fixture
def folder(tmp_path):
    return write(tmp_path / "images")


def write(root):
    for number, (name, content) in enumerate(FILES.items()):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(content)
        os.utime(root / name, ns=(0, 10**18 + number))
    (root / "notes.md").touch()
    return root


def reason(source, row=0):
    with pytest.raises(ImageError) as caught:
        source.read(row)
    return str(caught.value)


def test_a_folder_gives_the_bytes_of_its_files_in_the_order_of_their_names(folder):
    source = list_folder(folder)
    assert list(source.names) == SORTED and len(source) == 5 and source.other_files == 1
    assert [source.read(row) for row in range(5)] == [FILES[name] for name in SORTED]
    assert [source.describe(row) for row in range(5)] == [str(folder / name) for name in SORTED]


def test_rows_may_be_taken_in_any_order(folder):
    source = list_folder(folder).take(np.array([3, 0]))
    assert list(source.names) == [SORTED[3], SORTED[0]]
    assert [source.read(row) for row in (0, 1)] == [FILES[SORTED[3]], FILES[SORTED[0]]]


def test_a_pickled_source_reads_on(folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    source = list_folder(os.path.relpath(folder, tmp_path))
    monkeypatch.chdir("/")
    again = pickle.loads(pickle.dumps(source))
    assert [again.read(row) for row in range(5)] == [FILES[name] for name in SORTED]
    assert again.fingerprint() == source.fingerprint()


def test_names_that_are_no_text_are_read(tmp_path):
    name = os.fsdecode(b"caf\xe9.jpg")
    (tmp_path / name).write_bytes(b"coffee")
    source = list_folder(tmp_path)
    assert list(source.names) == [name] and source.read(0) == b"coffee"
    assert source.describe(0) == os.path.join(tmp_path, name)


def test_what_cannot_be_read_has_a_reason(folder):
    source = list_folder(folder)
    place = folder / SORTED[0]
    place.unlink()
    assert reason(source) == "cannot be read: No such file or directory"
    place.mkdir()
    assert reason(source) == "cannot be read: is a folder"
    place.rmdir()
    os.mkfifo(place)
    assert reason(source) == "cannot be read: is no regular file"
    place.unlink()
    place.symlink_to("/dev/zero")
    assert reason(source) == "cannot be read: is no regular file"
    place.unlink()
    place.symlink_to(folder / SORTED[1])
    assert source.read(0) == FILES[SORTED[1]]


def test_a_fingerprint_follows_the_files_not_their_place(folder, tmp_path):
    wanted = list_folder(folder).fingerprint()
    shutil.copytree(folder, tmp_path / "copy", copy_function=shutil.copy2)
    assert list_folder(tmp_path / "copy").fingerprint() == wanted
    folder.rename(tmp_path / "moved")
    assert list_folder(tmp_path / "moved").fingerprint() == wanted
    assert list_folder(tmp_path / "moved").take(np.arange(5)).fingerprint() == wanted


@pytest.mark.parametrize("change", ["size", "time", "name", "gone", "more", "order"])
def test_every_change_of_a_file_changes_the_fingerprint(folder, change):
    source = list_folder(folder)
    before, path = source.fingerprint(), folder / SORTED[1]
    stamp = path.stat().st_mtime_ns
    if change == "size":
        path.write_bytes(path.read_bytes() + b"!")
        os.utime(path, ns=(0, stamp))
    elif change == "time":
        os.utime(path, ns=(0, stamp + 1))
    elif change == "name":
        path.rename(path.with_suffix(".jpeg"))
    elif change == "gone":
        path.unlink()
        assert source.fingerprint() != before
    elif change == "more":
        (folder / "z.jpg").touch()
    again = list_folder(folder)
    assert (again.take(np.array([1, 0, 2, 3, 4])) if change == "order" else again).fingerprint() != before


# ---------------------------------------------------------------- records, memory, and which is which


@pytest.fixture
def records(tmp_path):
    faces = write_identities(tmp_path / "faces", identities=3, images=4)
    write_face_records(tmp_path / "train.rec", faces)
    return tmp_path / "train.rec", [path.read_bytes() for path, _ in faces]


def test_records_are_named_by_their_keys_in_the_order_of_the_numbers(records):
    place, images = records
    source = open_records(place)
    assert list(source.names) == [str(key) for key in range(1, 13)]
    some = source.take(np.array([11, 1]))
    assert list(some.names) == ["12", "2"] and [some.read(0), some.read(1)] == [images[11], images[1]]
    assert some.identities.tolist() == [2, 0] and some.describe(0) == f"{place}, record 12"


def test_fingerprints_of_records_follow_the_file_not_its_place(records, tmp_path):
    place, _ = records
    source = open_records(place)
    before = source.fingerprint()
    moved = tmp_path / "moved"
    moved.mkdir()
    for path in (place, place.with_suffix(".idx")):
        shutil.copy2(path, moved / path.name)
    assert open_records(moved).fingerprint() == before == pickle.loads(pickle.dumps(source)).fingerprint()
    assert source.take(np.arange(11)).fingerprint() != before != source.take(np.arange(12)[::-1]).fingerprint()
    stamp = place.stat().st_mtime_ns
    os.utime(place, ns=(0, stamp + 1))
    assert open_records(place).fingerprint() != before
    os.utime(place, ns=(0, stamp))
    assert open_records(place).fingerprint() == before
    place.write_bytes(place.read_bytes() + b"\0\0\0\0")
    os.utime(place, ns=(0, stamp))
    assert open_records(place).fingerprint() != before


def test_images_in_memory():
    source = MemorySource("/faces/lfw.bin", Names.from_strings(["b", "a"]), [b"bee", b"ay"])
    assert [source.read(0), source.read(1), len(source)] == [b"bee", b"ay", 2]
    assert source.describe(1) == "/faces/lfw.bin, image a"
    turned = source.take(np.array([1, 0]))
    assert list(turned.names) == ["a", "b"] and [turned.read(0), turned.read(1)] == [b"ay", b"bee"]
    prints = {source.fingerprint(), turned.fingerprint()}
    prints.add(MemorySource("/faces/lfw.bin", source.names, [b"be", b"eay"]).fingerprint())
    prints.add(MemorySource("/faces/lfw.bin", Names.from_strings(["b", "c"]), source.images).fingerprint())
    assert len(prints) == 4
    assert MemorySource("/elsewhere.bin", source.names, source.images).fingerprint() in prints


def test_a_location_is_opened_by_what_it_is(records, folder):
    place, images = records
    assert open_source(place).read(3) == images[3]
    assert [open_source(folder).read(row) for row in range(5)] == [FILES[name] for name in SORTED]
    place.rename(place.with_name("TRAIN.REC"))
    place.with_suffix(".idx").rename(place.with_name("TRAIN.idx"))
    assert open_source(place.with_name("TRAIN.REC")).read(0) == images[0]
    with pytest.raises(DataError, match=r"notes\.md: is no folder, no image and no file that holds images \(\.rec, "):
        open_source(folder / "notes.md")
    with pytest.raises(DataError, match="no such folder"):
        open_source(folder / "none")


# ---------------------------------------------------------------- places that are gone


def test_a_broken_link_is_listed_so_that_it_can_fail_by_name(tmp_path):
    (tmp_path / "gone.jpg").symlink_to("nowhere.jpg")
    source = listed(tmp_path)
    assert list(source.names) == ["gone.jpg"]
    assert "No such file" in reason(source)


def test_a_folder_that_vanishes_stops_the_run_and_a_single_file_is_a_failure(tmp_path):
    folder = tmp_path / "faces"
    for name in ("a.jpg", "b.jpg"):
        folder.mkdir(exist_ok=True)
        (folder / name).write_bytes(b"x")
    source = list_folder(folder)
    (folder / "a.jpg").unlink()
    with pytest.raises(ImageError, match="No such file"):
        source.read(0)
    (folder / "b.jpg").unlink()  # as a mount point without its share
    with pytest.raises(DataError, match=r"faces is gone \(No such file.*\); bring it back and run again"):
        source.read(0)
    folder.rmdir()
    with pytest.raises(DataError, match="faces is gone"):
        source.read(1)


def test_the_place_of_a_list_is_the_folder_that_holds_all_its_images(tmp_path):
    images = [tmp_path / "share" / name for name in ("a/1.jpg", "b/2.jpg")]
    for path in images:
        path.parent.mkdir(parents=True)
        path.write_bytes(b"x")
    (tmp_path / "list.txt").write_text("".join(f"{path}\n" for path in images))
    source = open_list(tmp_path / "list.txt")
    images[0].unlink()
    with pytest.raises(ImageError, match="No such file"):
        source.read(0)
    shutil.rmtree(tmp_path / "share")
    with pytest.raises(DataError, match=r"share is gone \(No such file"):
        source.read(0)


def test_a_container_that_is_gone_stops_the_run(tmp_path):
    for name in ("faces.tar", "faces.zip", "faces.parquet"):
        path = tmp_path / name
        if name.endswith(".tar"):
            (tmp_path / "1.jpg").write_bytes(b"x")
            with tarfile.open(path, "w") as archive:
                archive.add(tmp_path / "1.jpg", "1.jpg")
        elif name.endswith(".zip"):
            with zipfile.ZipFile(path, "w") as archive:
                archive.writestr("1.jpg", b"x")
        else:
            pq.write_table(pa.table({"path": ["1.jpg"], "image": pa.array([b"x"], pa.binary())}), path)
        source = pickle.loads(pickle.dumps(open_source(path)))
        path.unlink()
        with pytest.raises(DataError, match=rf"{name} is gone"):
            source.read(0)
