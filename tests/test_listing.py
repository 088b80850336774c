"""data/sources/folder.py: which files of a folder are images, in which order, and through which links."""

import os

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data.sources.folder import list_folder
from tests.helpers.listing import listed
from utils.errors import DataError


def touch(root, *names):
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()


SUFFIXES = "jpg JPG Jpeg jpe jfif png PNG webp WebP bmp tif TIFF GIF jp2 j2k ppm PGM".split()


def test_listing_by_suffix_in_any_case(tmp_path):
    names = [f"a{i}.{suffix}" for i, suffix in enumerate(SUFFIXES)]
    touch(tmp_path, *names, "notes.txt", "b.gi", "README", "sub/c.jpg", "sub/list.csv", ".hidden.jpg", ".jpg", ".x.txt")
    touch(tmp_path, "sub/00001fa010", "LICENSE", "sub/Readme")
    source = listed(tmp_path)
    assert list(source.names) == sorted([*names, "sub/c.jpg", ".hidden.jpg", "sub/00001fa010"])
    assert source.other_files == 8
    assert source.named_others() == "8 other files: 4 without suffix, 2 .txt, 1 .csv, 1 .gi"
    assert source.take(np.array([0])).named_others() == source.named_others()


def test_listing_is_sorted_as_whole_paths(tmp_path):
    """A folder sorts as "name/": after "name-1.jpg" and "name.jpg", before "name0.jpg"."""
    touch(tmp_path, "a/1.jpg", "a-1.jpg", "a.jpg", "a0.jpg", "a b/1.jpg", "B/x.jpg", "ä/1.jpg", "a/b/c.jpg", "a/b.jpg")
    names = list(listed(tmp_path).names)
    assert names == sorted(names)
    assert len(names) == 9
    assert names.index("a-1.jpg") < names.index("a.jpg") < names.index("a/1.jpg") < names.index("a0.jpg")


file_names = st.lists(
    st.lists(st.text(st.sampled_from("ab.-_0 é"), min_size=1, max_size=4), min_size=1, max_size=3).map("/".join),
    max_size=12,
)


@settings(deadline=None, max_examples=40)
@given(file_names)
def test_listing_equals_a_plain_walk(tmp_path_factory, paths):
    root = tmp_path_factory.mktemp("walk")
    for path in paths:
        try:
            touch(root, path + ".jpg")
        except OSError:  # a file where a folder should be
            continue
    expected = sorted(p.relative_to(root).as_posix() for p in root.rglob("*") if p.is_file())
    expected = [path for path in expected if os.path.splitext(path)[1] == ".jpg"]
    assert list(listed(root).names) == sorted(expected, key=str.encode)


def test_odd_names_and_links_are_listed_as_by_the_oracle(tmp_path):
    touch(tmp_path, "b/1.jpg", "b.jpg", "b-c/2.PNG", "b/a/3.tiff", "z.txt", ".hidden.jpg", "x/.jpg", "é/ü.webp")
    touch(tmp_path, "n\nl.bmp", os.fsdecode(b"caf\xe9.jpg"))
    (tmp_path / "loop").symlink_to(tmp_path)
    (tmp_path / "b/link").symlink_to(tmp_path / "b-c")
    (tmp_path / "gone.jpg").symlink_to(tmp_path / "nowhere.jpg")
    (tmp_path / "dir.jpg").mkdir()
    assert len(listed(tmp_path)) == 10


def test_links_are_followed_but_never_in_circles(tmp_path):
    touch(tmp_path, "real/a.jpg", "real/deep/b.jpg")
    (tmp_path / "real/up").symlink_to(tmp_path)
    (tmp_path / "real/deep/self").symlink_to(".")
    (tmp_path / "linked").symlink_to("real/deep")
    (tmp_path / "file.jpg").symlink_to("real/a.jpg")
    names = list(listed(tmp_path).names)
    assert names == ["file.jpg", "linked/b.jpg", "real/a.jpg", "real/deep/b.jpg"]


def test_a_pipe_is_no_image(tmp_path):
    os.mkfifo(tmp_path / "pipe.jpg")
    assert list(listed(tmp_path).names) == []


def test_deep_folders(tmp_path):
    folder = tmp_path
    for _ in range(120):
        folder = folder / "d"
    touch(folder, "a.jpg")
    assert list(listed(tmp_path).names) == ["d/" * 120 + "a.jpg"]


def test_empty_and_missing_folder(tmp_path):
    source = listed(tmp_path)
    assert (len(source), source.other_files) == (0, 0)
    with pytest.raises(DataError, match="no such folder"):
        list_folder(tmp_path / "none")
    touch(tmp_path, "a.jpg")
    with pytest.raises(DataError, match="no such folder"):
        list_folder(tmp_path / "a.jpg")
