"""Image sources: the bytes of each row, what messages call it, and fingerprints that tell changes from moves."""

import os
import pickle
import shutil

import numpy as np
import pytest

from data.images.decode import ImageError
from data.sources.folder import list_folder

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
    (root / "notes.txt").touch()
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
