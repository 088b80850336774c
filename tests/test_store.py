"""utils/store.py: entries named by what they were made from, whole or absent, told from older ones, cleared."""

import hashlib
import json
import logging
import os
import time

import numpy as np
import pytest

import prepare
from tests.helpers import processes
from tests.helpers.training import ROOT
from utils import cli
from utils.requests import difference_text
from utils.store import DamagedEntry, Store, facts_sha256, read_entry, save_array

FACTS = {"format": 1, "images": {"names": "a" * 64, "count": 3}, "scaling": "rank"}


def keep(store, facts=FACTS, kind="index", value=1.0):
    with store.create(kind, facts, {"told": [value]}) as folder:
        save_array(folder, "numbers", np.full((100, 2), value, np.float32))
        save_array(folder, "none", np.zeros((0, 5, 2), np.float32))
        (folder / "text.txt").write_text("kept")
    return store.place(kind, facts)


def age(folder, days):
    then = time.time() - days * 86_400
    os.utime(folder, (then, then))


def test_what_was_kept_comes_back(tmp_path):
    store = Store(tmp_path / "new" / "store")
    assert store.open("index", FACTS) is None and not store.folder.exists()
    place = keep(store)
    entry = Store(store.folder).open("index", {**dict(reversed(FACTS.items()))})
    assert entry.folder == place and entry.facts == FACTS and entry.note == {"told": [1.0]}
    arrays = entry.arrays()
    assert set(arrays) == {"numbers", "none"} and arrays["none"].shape == (0, 5, 2)
    assert arrays["numbers"].dtype == np.float32 and (arrays["numbers"] == 1).all()
    with pytest.raises(ValueError, match="read-only"):
        arrays["numbers"] += 1
    assert (place / "text.txt").read_text() == "kept"
    assert os.listdir(store.folder) == [place.name]


def test_the_name_is_the_hash_of_the_facts(tmp_path):
    place = Store(tmp_path).place("index", {"b": 1, "a": "é"})
    text = '{"a": "\\u00e9", "b": 1}'  # keys sorted, ASCII
    assert facts_sha256({"b": 1, "a": "é"}) == hashlib.sha256(text.encode()).hexdigest()
    assert place.name == f"index-{hashlib.sha256(text.encode()).hexdigest()[:32]}"
    names = {Store(tmp_path).place(*one).name for one in (
        ("index", {"a": 1}), ("teacher", {"a": 1}), ("index", {"a": 2}), ("index", {"a": "1"}), ("index", {"b": 1}),
    )}  # fmt: skip
    assert len(names) == 5
    assert Store(tmp_path).place("../x y", {}).name.startswith("_x_y-")


def test_differences_are_told_by_key_and_short_values():
    then = {"format": 1, "images": {"names": "a" * 64, "count": 3}, "same": [1, 2]}
    now = {"format": 2, "images": {"names": "b" * 64, "count": 3}, "same": [1, 2], "new": "x"}
    assert difference_text(then, now) == 'format (was 1, is 2), images.names, new (was null, is "x")'
    assert difference_text(then, then) == ""


def test_the_log_says_why_an_entry_is_not_used(tmp_path, caplog):
    caplog.set_level(logging.INFO)
    store = Store(tmp_path)
    near = keep(store, {**FACTS, "scaling": "minmax"})
    keep(store, {"format": 0, "scaling": "none"})
    keep(store, {**FACTS, "other": 1}, kind="teacher")
    assert store.open("index", FACTS) is None
    (line,) = caplog.messages
    assert line == f'{near}: not used, it was made from something else: scaling (was "minmax", is "rank")'
    caplog.clear()
    assert store.open("pass", FACTS) is None and store.open("teacher", {**FACTS, "other": 1}) is not None
    assert caplog.messages == []


def test_an_entry_of_another_version_is_listed_and_not_used(tmp_path, caplog):
    caplog.set_level(logging.INFO)
    old = tmp_path / f"teacher-{'0' * 32}"
    old.mkdir()
    (old / "facts.json").write_text(json.dumps({"format": 1, "count": 3}))
    store = Store(tmp_path)
    assert store.open("teacher", FACTS) is None
    assert caplog.messages == [f"{old}: not used, it is of another version of this program"]
    (listed,) = store.entries()
    assert (listed.folder, listed.kind, listed.facts) == (old, "teacher", None)


@pytest.mark.parametrize("damage", ["flip", "cut", "remove", "facts"])
def test_a_damaged_entry_is_removed_with_a_sentence(tmp_path, caplog, damage):
    store = Store(tmp_path)
    place = keep(store)
    path = place / ("facts.json" if damage == "facts" else "numbers.npy")
    content = path.read_bytes()
    if damage == "flip":
        path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    elif damage == "remove":
        path.unlink()
    else:
        path.write_bytes(content[:-1])
    assert store.open("index", FACTS) is None and not place.exists()
    (line,) = caplog.messages
    assert line.startswith(f"{place}: the stored entry is damaged (") and line.endswith("and is made anew")
    keep(store)
    assert store.open("index", FACTS) is not None


def test_nothing_half_written_is_ever_an_entry(tmp_path):
    store = Store(tmp_path)
    with pytest.raises(KeyError), store.create("index", FACTS) as folder:
        save_array(folder, "numbers", np.ones(3))
        assert store.entries() == []
        raise KeyError("in the middle")
    assert store.open("index", FACTS) is None and list(tmp_path.iterdir()) == []


def test_reserved_files_are_filled_in_place(tmp_path):
    store = Store(tmp_path)
    with store.create("teacher", FACTS, reserve={"state.u8": 100_000}):
        pass
    place = store.place("teacher", FACTS)
    assert (place / "state.u8").stat().st_blocks * 512 >= 100_000, "on disk, not a hole"
    np.memmap(place / "state.u8", np.uint8, "r+")[:] = 7
    assert store.open("teacher", FACTS) is not None and set((place / "state.u8").read_bytes()) == {7}
    os.truncate(place / "state.u8", 99_999)
    with pytest.raises(DamagedEntry, match=r"state\.u8 has another size"):
        read_entry(place)
    assert store.open("teacher", FACTS) is None


def create_at_once(folder, value, barrier):
    with Store(folder).create("index", FACTS) as draft:
        save_array(draft, "numbers", np.full(10, value))
        barrier.wait(60)


def test_of_two_processes_that_store_the_same_the_first_stays(tmp_path):
    context = processes.forkserver()
    barrier = context.Barrier(3)
    workers = [context.Process(target=create_at_once, args=(tmp_path, value, barrier)) for value in range(3)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(60)
    assert [worker.exitcode for worker in workers] == [0, 0, 0]
    entry = Store(tmp_path).open("index", FACTS)
    assert len(set(entry.arrays()["numbers"])) == 1 and os.listdir(tmp_path) == [entry.folder.name]


def test_what_is_mapped_outlives_its_entry(tmp_path):
    store = Store(tmp_path)
    keep(store)
    entry = store.open("index", FACTS)
    numbers = entry.arrays()["numbers"]
    entry.discard()
    entry.discard()
    assert (numbers == 1).all() and store.entries() == []


def test_a_list_tells_older_content_from_current_one(tmp_path):
    store = Store(tmp_path)
    older, latest, other = keep(store), keep(store, {**FACTS, "scaling": "none"}), keep(store, {}, kind="teacher")
    for place, days in ((older, 3), (latest, 2), (other, 1)):
        age(place, days)
    broken = tmp_path / f"index-{'f' * 32}"
    broken.mkdir()
    size = f"{Store(tmp_path).entries()[0].size / 2**20:.1f} MiB"
    lines = store.lines()
    assert lines[0] == (f'{older.name}: {size}, unused for 3.0 days, older content: scaling (was "rank", is "none")')
    assert lines[1:3] == [f"{latest.name}: {size}, unused for 2.0 days", f"{other.name}: {size}, unused for 1.0 days"]
    assert lines[3].endswith("unused for 0.0 days, damaged or of another version of this program")
    assert store.lines("t*", 0.5) == lines[2:3] and store.lines(unused_days=2.5) == lines[:1]


def test_prepare_lists_and_clears_a_cache(tmp_path, capsys):
    store = Store(tmp_path / "kept")
    old, new = keep(store), keep(store, kind="teacher")
    age(old, 9)

    def run(*options):
        shipped = ROOT / "configs/prepare_config.yaml"
        code = cli.run(lambda: prepare.main(
            ["-c", str(shipped), "base.task=cache", f"cache.folder={store.folder}", *options]
        ))  # fmt: skip
        return code, *capsys.readouterr()

    code, out, _ = run()
    assert code == 0 and [line.partition(":")[0] for line in out.splitlines()] == [old.name, new.name]
    code, out, err = run("cache.clear=1", "cache.unused_days=7")
    assert (code, out) == (0, "") and err.startswith(f"{store.folder}: 1 entries removed, ")
    assert os.listdir(store.folder) == [new.name]
    code, _, err = run("cache.folder=" + str(tmp_path / "absent"))
    assert (
        code == 2
        and err == f"error: {tmp_path / 'absent'}: no such folder; name in cache.folder one that keeps something\n"
    )


def test_entries_are_listed_and_cleared_by_kind_and_age(tmp_path):
    store = Store(tmp_path)
    old, used, other = keep(store), keep(store, {"n": 2}), keep(store, kind="toy.aligned.q")
    (tmp_path / "notes.txt").write_text("a user's own")
    (tmp_path / "mine").mkdir()
    for place, days in ((old, 40), (used, 40), (other, 10)):
        age(place, days)
    assert store.open("index", {"n": 2}) is not None  # used again
    listed = store.entries()
    assert [one.folder for one in listed] == [old, other, used]
    assert [round(one.unused_days) for one in listed] == [40, 10, 0]
    assert listed[0].size == sum(path.stat().st_size for path in old.iterdir()) > 800
    assert [one.folder for one in store.clear(unused_days=30)] == [old]
    assert [one.folder for one in store.clear("toy.*")] == [other]
    left = tmp_path / f".index-{'0' * 32}.{'1' * 8}"
    left.mkdir()
    assert [one.folder for one in store.clear()] == [used]
    assert sorted(os.listdir(tmp_path)) == ["mine", "notes.txt"]
    assert Store(tmp_path / "absent").entries() == Store(tmp_path / "absent").clear() == []
