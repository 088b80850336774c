"""Two processes at once in one place: neither removes the other's work, or takes it for its own."""

import fcntl
import functools
import json
import os
import shutil

import numpy as np
import pytest
import torch

from data.index.build import build_index
from evaluation.protocol.views import ALIGNED
from jobs.journal import Journal
from tests.helpers import commands
from tests.helpers.evaluation import Recorder, crop_pass, open_population, write_population
from tests.helpers.processes import at_call, finished, forkserver, held_lock
from tests.helpers.training import write_faces
from utils import store
from utils.config.train import DatasetConfig
from utils.errors import DataError
from utils.files import FolderLock, atomic_write, replacing, sha256_file
from utils.store import Store, save_array

FACTS = {"format": 1}
BUSY = "{}: another run writes there; wait, or change base.save_path"


def tell(action, queue):
    try:
        action()
        queue.put(None)
    except DataError as error:
        queue.put(str(error))


def elsewhere(action):
    """Call something in another process; return None, or the sentence of its DataError."""
    queue = forkserver().Queue()
    process = forkserver().Process(target=tell, args=(action, queue))
    process.start()
    answer = queue.get(timeout=60)
    process.join(60)
    return answer


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


def test_what_another_process_is_about_to_replace_is_left_alone(tmp_path):
    target = tmp_path / "train"
    target.mkdir()
    (tmp_path / ".train.partial/new").mkdir(parents=True)
    (tmp_path / ".train.partial/new/1.jpg").write_bytes(b"of the other process")
    with held_lock(tmp_path / ".train.partial/.lock"):
        with pytest.raises(DataError, match=rf"{target}: another run writes there; wait"), replacing(target) as place:
            place.mkdir()
        assert [path.name for path in (tmp_path / ".train.partial/new").iterdir()] == ["1.jpg"]
    with replacing(target) as place:
        place.mkdir()
        (place / "2.jpg").write_bytes(b"2")
    assert [path.name for path in tmp_path.iterdir()] == ["train"]
    assert [path.name for path in target.iterdir()] == ["2.jpg"]


def test_a_lock_that_its_holder_removed_before_it_was_taken_is_made_again(tmp_path, monkeypatch):
    lockf, removed = fcntl.lockf, []

    def removed_just_before(stream, how):
        if len(removed) < 3:
            removed.append(shutil.rmtree(tmp_path / "partial"))
        return lockf(stream, how)

    monkeypatch.setattr(fcntl, "lockf", removed_just_before)
    lock = FolderLock(tmp_path / "partial", tmp_path)
    assert len(removed) == 3
    monkeypatch.undo()
    assert elsewhere(functools.partial(FolderLock, tmp_path / "partial", tmp_path)) == BUSY.format(tmp_path)
    lock.remove_folder()
    assert list(tmp_path.iterdir()) == []


def test_a_run_that_is_about_to_end_lets_no_other_begin_before_its_partial_results_are_gone(tmp_path, monkeypatch):
    journal = Journal(tmp_path, {"w": "a"}, 9)
    journal.open()
    remove, said = FolderLock.remove_folder, []

    def begun_just_before(self):
        said.append(elsewhere(Journal(tmp_path, {"w": "a"}, 9).open))
        remove(self)

    monkeypatch.setattr(FolderLock, "remove_folder", begun_just_before)
    journal.finish({})
    assert said == [BUSY.format(tmp_path)] and not (tmp_path / "partial").exists()
    assert elsewhere(Journal(tmp_path, {"w": "a"}, 9).open) is None


def replace_weights(path):
    """Write other weights in the place of a student's, as a training does with each validation."""
    state = torch.load(path, weights_only=True)
    with atomic_write(path) as stream:
        torch.save({name: value + 1 if value.is_floating_point() else value for name, value in state.items()}, stream)


@pytest.mark.parametrize(
    ("where", "before"), [("model.frozen.load:NetworkLoader.load", True), ("model.registry:load_student", False)]
)
def test_scores_are_never_taken_for_those_of_weights_that_came_later(tmp_path, where, before):
    """The request of a run names the weights that were read; those that came while they were read are refused."""
    command = commands.written(tmp_path, commands.scores)
    weights = next(tmp_path.glob("*.pth"))
    read = sha256_file(weights)
    first = functools.partial(at_call, 1, where, functools.partial(replace_weights, weights))
    code, said = finished(*command, f"base.save_path={tmp_path / 'out'}", first=first)
    assert sha256_file(weights) != read
    if before:
        assert code == 0, said
        assert json.loads((tmp_path / "out/run.json").read_text())["request"]["weights_sha256"] == read
    else:
        assert (code, said) == (2, f"error: {weights}: was written anew while it was read; run again\n")


@pytest.mark.parametrize("make", [commands.training, commands.evaluation])
def test_two_runs_never_write_into_one_folder(tmp_path, make):
    """Of two trainings both wrote metrics.jsonl and the weights; of two evaluations one the tables, one config.yaml."""
    command = commands.written(tmp_path, make)
    out = tmp_path / "out"
    with held_lock(out / ".lock"):
        assert finished(*command, f"base.save_path={out}") == (2, f"error: {BUSY.format(out)}\n")
        assert [path.name for path in out.iterdir() if path.is_file()] == [".lock"]
    assert finished(*command, f"base.save_path={out}")[0] == 0
    assert not (out / ".lock").exists()
