"""jobs/journal.py: the same request goes on, another one starts anew, a bad line counts as not written."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jobs.journal import Journal
from jobs.journal_lines import JournalLine, Progress, sealed
from utils.errors import DataError
from utils.requests import first_difference

COUNT = 9


def opened(folder, request=None, width=1, outputs=()):
    journal = Journal(folder, request or {"w": "a"}, COUNT, width)
    journal.open(outputs)
    return journal


def recorded(folder, *lines, width=1):
    """Leave unfinished work that holds these lines; return the bytes of its partial file."""
    journal = opened(folder, width=width)
    for line in lines:
        journal.append(line)
    journal.close()
    return (folder / "partial/0.jsonl").read_bytes()


def three(first, *values, **failures):
    return JournalLine.of(
        first, np.float32(values)[:, None], {int(k[1:]): v for k, v in failures.items()}, {"resized": 1}
    )


def test_what_is_written_is_read_back_to_the_last_bit(tmp_path):
    tiny, huge = np.finfo(np.float32).smallest_subnormal, np.finfo(np.float32).max
    recorded(tmp_path, three(0, tiny, -huge, 1 / 3), three(6, 0, np.nan, 2.5, _1='no face\n"x" \udcff é'))
    state = opened(tmp_path).progress()
    assert state.done.tolist() == [True] * 3 + [False] * 3 + [True] * 3
    assert state.values[[0, 1, 2, 6, 8], 0].tolist() == np.float32([tiny, -huge, 1 / 3, 0, 2.5]).tolist()
    assert state.reasons == {7: 'no face\n"x" \\udcff é'} and np.isnan(state.values[7, 0])
    assert state.counts == {"resized": 2} and state.rows().tolist() == [0, 1, 2, 6, 8]


def test_rows_done_again_in_another_batch_keep_the_last_word(tmp_path):
    recorded(tmp_path, three(0, 1, np.nan, np.nan, _1="old", _2="old"), three(2, 5, np.nan, 6, _1="new"))
    state = opened(tmp_path).progress()
    assert state.reasons == {1: "old", 3: "new"}
    np.testing.assert_array_equal(state.values[:5, 0], np.float32([1, np.nan, 5, np.nan, 6]))


GOOD = {"first": 3, "values": [[0.5], None], "failures": {"1": "bad"}, "counts": {"resized": 1}}
DAMAGED = {
    "cut off": json.dumps(GOOD)[:-9],
    "two lines in one": json.dumps(GOOD) * 2,
    "no JSON": "{first: 3}",
    "a list": json.dumps([GOOD]),
    "nothing": "",
    "null": "null",
    "too deep": "[" * 100_000,
    "another key": json.dumps({**GOOD, "firSt": 3}),
    "no failures": json.dumps({"first": 3, "values": [[0.5], [0.5]]}),
    "a row without a reason": json.dumps({**GOOD, "failures": {}}),
    "a reason for a row with a number": json.dumps({**GOOD, "failures": {"0": "x", "1": "bad"}}),
    "a reason beyond the batch": json.dumps({**GOOD, "failures": {"1": "bad", "2": "x"}}),
    "a place that is no number": json.dumps({**GOOD, "failures": {"<<: *a": "bad"}}),
    "a reason that is no text": json.dumps({**GOOD, "failures": {"1": 7}}),
    "a first row before all": json.dumps({**GOOD, "first": -1}),
    "a first row beyond all": json.dumps({**GOOD, "first": COUNT - 1}),
    "a first row far beyond": json.dumps({**GOOD, "first": 10**30}),
    "a first row that is no number": json.dumps({**GOOD, "first": {"1": "bad"}}),
    "values that are no list": json.dumps({**GOOD, "values": {"1": "bad"}}),
    "a number as text": json.dumps({**GOOD, "values": [["0.5"], None]}),
    "two numbers": json.dumps({**GOOD, "values": [[0.5, 0.5], None]}),
    "no finite number": json.dumps({**GOOD, "values": [[float("nan")], None]}),
    "an infinite number": json.dumps({**GOOD, "values": [[float("-inf")], None]}),
    "more than a float32": json.dumps({**GOOD, "values": [[1e39], None]}),
    "an infinite count": json.dumps({**GOOD, "counts": {"resized": float("inf")}}),
    "a huge count": json.dumps(GOOD).replace('"resized": 1', '"resized": 1e400'),
    "a count below zero": json.dumps({**GOOD, "counts": {"resized": -1}}),
    "bytes that are no text": json.dumps(GOOD).replace("bad", "b\udcffd"),
}


@pytest.mark.parametrize("kind", DAMAGED)
def test_a_damaged_line_counts_as_not_written(tmp_path, kind):
    before = recorded(tmp_path, three(0, 1, 2))
    line = sealed(DAMAGED[kind].encode(errors="surrogateescape"))
    after = sealed(json.dumps({"first": 7, "values": [[7.0]], "failures": {}}).encode())
    (tmp_path / "partial/0.jsonl").write_bytes(before + line + after)
    state = opened(tmp_path).progress()
    assert np.flatnonzero(state.done).tolist() == [0, 1, 7] and state.values[[0, 1, 7], 0].tolist() == [1, 2, 7]
    assert state.reasons == {} and state.counts == {"resized": 1}
    (tmp_path / "partial/0.jsonl").write_bytes(before + sealed(json.dumps(GOOD).encode()) + after)
    assert np.flatnonzero(opened(tmp_path).progress().done).tolist() == [0, 1, 3, 4, 7]


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_no_damage_makes_reading_fail_or_a_row_lose_its_reason(tmp_path_factory, data):
    folder = tmp_path_factory.mktemp("journal", numbered=True)
    content = recorded(folder, three(0, 1, np.nan, 3, _1="bad"), three(3, 4, 5, np.nan, _2="worse"), three(6, 7, 8, 9))
    for _ in range(data.draw(st.integers(1, 3))):
        start = data.draw(st.integers(0, len(content)))
        end = min(len(content), start + data.draw(st.integers(0, 12)))
        pieces = st.sampled_from([b"1e999", b"NaN", b"null", b'""', b"[", b"}", b"\n", b"-", b"\xff", b"9" * 25])
        content = content[:start] + data.draw(st.one_of(pieces, st.binary(max_size=4))) + content[end:]
    (folder / "partial/0.jsonl").write_bytes(content)
    state = opened(folder).progress()
    without = np.flatnonzero(state.done & ~np.isfinite(state.values[:, 0]))
    assert without.tolist() == sorted(state.reasons) and np.isnan(state.values[~state.done]).all()
    assert all(reason.encode() for reason in state.reasons.values()) and min(state.counts.values(), default=0) >= 0


@settings(deadline=None)
@given(done=st.lists(st.booleans(), max_size=30), size=st.integers(1, 40))
def test_batches_left_are_those_that_hold_a_row_to_be_done(done, size):
    state = Progress(len(done), 1)
    state.done[:] = done
    wanted = [first for first in range(0, len(done), size) if not all(done[first : first + size])]
    assert state.left(size).tolist() == wanted


def test_a_row_that_nobody_reached_is_an_error(tmp_path):
    recorded(tmp_path, three(0, 1, 2))
    with pytest.raises(DataError, match=f"{COUNT - 2} of {COUNT} images were reached by no process; run again"):
        opened(tmp_path).result()


def test_the_first_difference_is_named():
    old = {"a": {"b": 1, "c": [1, 2]}, "d": None}
    assert first_difference(old, {"a": {"b": 1, "c": [1, 2]}}) is None  # absent is None
    assert first_difference(old, {"a": {"b": 1, "c": [2, 1]}, "d": 3}) == ("a.c", [1, 2], [2, 1])
    assert first_difference(old, {"a": {"b": 2, "c": 0}, "d": 3}, ("a", "e")) == ("d", None, 3)
    assert first_difference(old, {**old, "e": 1}) == ("e", None, 1)
    assert first_difference({"a": 1}, {"a": {"b": 1}}) == ("a", 1, {"b": 1})


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ({"status": "unfinished", "request": {"w": "a"}}, "goes on with the unfinished run in {}"),
        ({"status": "unfinished", "request": {"w": "b"}}, "starts anew: the unfinished run in {} differs in w"),
        ({"status": "finished", "request": {"w": "a"}}, "replaces the finished run in {}"),
        ({"request": {"w": "a"}}, "replaces the finished run in {}"),
        ({"status": "unfinished"}, "starts a new run in {}"),
        ({"status": "unfinished", "request": ["w"]}, "starts a new run in {}"),
        ([], "starts a new run in {}"),
        (b"[" * 100_000, "starts a new run in {}"),
        (b'{"status": "unfin', "starts a new run in {}"),
        (b"\xff", "starts a new run in {}"),
        (None, "starts a new run in {}"),
    ],
)
def test_run_json_says_whether_earlier_work_goes_on(tmp_path, caplog, content, said):
    recorded(tmp_path, three(0, 1))
    (tmp_path / "result.csv").write_text("old")
    (tmp_path / "run.json").unlink()
    if content is not None:
        (tmp_path / "run.json").write_bytes(content if isinstance(content, bytes) else json.dumps(content).encode())
    with caplog.at_level("INFO"):
        journal = opened(tmp_path, outputs=("result.csv", "never.csv"))
    assert caplog.messages == [said.format(tmp_path)]
    goes_on = said.startswith("goes on")
    assert journal.progress().done.sum() == goes_on and (tmp_path / "result.csv").exists() == goes_on
    assert json.loads((tmp_path / "run.json").read_text()) == {"status": "unfinished", "request": {"w": "a"}}
    journal.finish({"counts": {"images": COUNT}})
    facts = json.loads((tmp_path / "run.json").read_text())
    assert list(facts) == ["status", "counts", "versions", "request"] and facts["status"] == "finished"
    assert not (tmp_path / "partial").exists()


def test_a_row_may_have_several_records():
    """Where the journal says so: the first replaces nothing, a row recorded again loses what it had."""
    state = Progress(4, 2, several=True)
    state.add(JournalLine.records(0, [[1, 2, 3, 4], [5, 6], []], {2: "dark"}, {}))
    state.add(JournalLine.records(3, [[7, 8, 9]], {}, {}))  # no whole number of records
    rows, values = state.records()
    assert rows.tolist() == [0, 0, 1] and values.tolist() == [[1, 2], [3, 4], [5, 6]] and not state.done[3]
    state.add(JournalLine.records(0, [[1, 2], [5, 6, 7, 8]], {}, {}))
    assert state.records()[0].tolist() == [0, 1, 1] and state.records()[1].tolist() == [[1, 2], [5, 6], [7, 8]]
