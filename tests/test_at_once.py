"""Two processes at once in one place: neither removes the other's work, or takes it for its own."""

import os
import shutil

import numpy as np
import pytest

from data.index.build import build_index
from evaluation.protocol.views import ALIGNED
from tests.helpers.evaluation import Recorder, crop_pass, open_population, write_population
from tests.helpers.training import write_faces
from utils import store
from utils.config.train import DatasetConfig
from utils.store import Store, save_array

FACTS = {"format": 1}


def keep(folder, value):
    with Store(folder).create("numbers", FACTS) as draft:
        save_array(draft, "numbers", np.full(3, value))


def kept(folder):
    return Store(folder).open("numbers", FACTS).arrays()["numbers"].tolist()


def test_an_entry_that_another_process_has_made_anew_is_not_discarded(tmp_path):
    keep(tmp_path, 1)
    stale = Store(tmp_path).open("numbers", FACTS)
    with open(stale.folder / "facts.json"):  # so that its inode is not used again within a tick of the clock
        Store(tmp_path).open("numbers", FACTS).discard()
        keep(tmp_path, 2)
    stale.discard()
    assert kept(tmp_path) == [2, 2, 2]


def test_an_entry_that_another_process_replaces_while_it_is_read_is_not_damaged(tmp_path, monkeypatch, caplog):
    keep(tmp_path, 1)
    crc32 = store._crc32

    def replaced_meanwhile(path):
        monkeypatch.setattr(store, "_crc32", crc32)
        with open(path.parent / "facts.json"):
            Store(tmp_path).open("numbers", FACTS).discard()
            keep(tmp_path, 2)
        return crc32(path)

    monkeypatch.setattr(store, "_crc32", replaced_meanwhile)
    assert Store(tmp_path).open("numbers", FACTS) is None and caplog.messages == []
    assert kept(tmp_path) == [2, 2, 2]


@pytest.fixture
def removed_once_open(monkeypatch):
    """Let another process remove every entry as soon as this one has opened it."""
    opened = Store.open

    def open_and_lose(self, kind, facts):
        entry = opened(self, kind, facts)
        if entry is not None:
            shutil.rmtree(entry.folder)
        return entry

    monkeypatch.setattr(Store, "open", open_and_lose)


def test_an_index_that_another_process_removes_is_built_anew(tmp_path, removed_once_open):
    write_faces(tmp_path, 12)
    for folder in (tmp_path / "images", *(tmp_path / "images").iterdir()):
        os.utime(folder, (1e9, 1e9))
    plain = DatasetConfig(
        image_location=str(tmp_path / "images"),
        quality_location=str(tmp_path / "labels.csv"),
        landms_location=str(tmp_path / "landmarks.csv"),
    )
    expected = build_index(plain)[0]
    for _ in range(2):
        index, _ = build_index(plain.model_copy(update={"cache": str(tmp_path / "cache")}))
        assert list(index.names) == list(expected.names) and index.labels.tolist() == expected.labels.tolist()
        np.testing.assert_array_equal(index.landmarks, expected.landmarks)


def test_numbers_that_another_process_removes_are_measured_anew(tmp_path, removed_once_open):
    write_population(tmp_path)
    first, second = (
        crop_pass(open_population(tmp_path), tmp_path / "cache")(ALIGNED, {"q": Recorder()})["q"] for _ in range(2)
    )
    np.testing.assert_array_equal(first.values, second.values)
