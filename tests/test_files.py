"""Files that are whole or absent, beside other processes that tidy up in the same folder."""

import os
import tempfile

from utils.files import atomic_write, claimed, remove_abandoned


def test_a_file_that_is_about_to_take_its_name_is_not_abandoned(tmp_path, monkeypatch):
    replace = os.replace

    def tidied_up_just_before(source, target):
        remove_abandoned(tmp_path)
        replace(source, target)

    monkeypatch.setattr(os, "replace", tidied_up_just_before)
    with atomic_write(tmp_path / "run.json") as stream:
        stream.write(b"{}")
    assert [path.name for path in tmp_path.iterdir()] == ["run.json"]
    assert (tmp_path / "run.json").read_bytes() == b"{}"


def test_a_file_that_was_taken_for_abandoned_before_it_was_claimed_is_made_again(tmp_path, monkeypatch):
    make, made = tempfile.mkstemp, []

    def tidied_up_just_after(**options):
        made.append(make(**options))
        if len(made) < 3:
            remove_abandoned(tmp_path)
        return made[-1]

    monkeypatch.setattr(tempfile, "mkstemp", tidied_up_just_after)
    with atomic_write(tmp_path / "run.json") as stream:
        stream.write(b"{}")
    assert [os.path.exists(name) for _, name in made] == [False] * 3
    assert [path.name for path in tmp_path.iterdir()] == ["run.json"]
    assert (tmp_path / "run.json").read_bytes() == b"{}"


def test_so_is_a_folder_and_it_is_abandoned_when_its_block_has_ended(tmp_path):
    names = iter(["first.aaaaaaaa", "second.bbbbbbbb"])

    def make():
        folder = tmp_path / f".{next(names)}.tmp"
        folder.mkdir()
        if folder.name == ".first.aaaaaaaa.tmp":
            remove_abandoned(tmp_path)
        return folder

    with claimed(make) as folder:
        (folder / "part").write_bytes(b"1")
        remove_abandoned(tmp_path)
        assert [path.name for path in tmp_path.iterdir()] == [".second.bbbbbbbb.tmp"]
    remove_abandoned(tmp_path)
    assert list(tmp_path.iterdir()) == []
