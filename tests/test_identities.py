"""data/index/identities.py: who is on an image, by its folder, a rule or a file."""

import os
import re

import numpy as np
import pytest

from data.index.build import build_identity_index
from data.index.identities import find_identities, folder_remarks
from data.tables.names import Names
from tests.helpers.index import SORTED, Faces, points
from utils.errors import DataError


@pytest.fixture
def faces(tmp_path):
    return Faces(tmp_path)


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
