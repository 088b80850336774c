"""Files are written whole, also while another process tidies the folder up."""

import os

from utils.files import atomic_write, remove_abandoned


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
