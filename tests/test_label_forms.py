"""data/tables/forms: labels in JSON, NumPy files, pickles, parquet and feather, and damage in each."""

import json
import pickle

import numpy as np
import pyarrow as pa
import pyarrow.feather
import pyarrow.parquet
import pytest

from data.tables.scores import read_scores
from tests.helpers.tables import scores, written
from utils.config.sections import ScoreForm
from utils.errors import DataError


def test_missing_scores_of_pickles_and_parquet(tmp_path):
    pickled = {"a": 0.5, "b": None, "c": float("nan"), "d": -1}
    table = pa.table({"path": list(pickled), "quality": pa.array([0.5, None, float("nan"), -1.0])})
    pa.parquet.write_table(table, tmp_path / "q.parquet")
    for path in (written(tmp_path, pickle.dumps(pickled), "q.pkl"), tmp_path / "q.parquet"):
        found = read_scores(path, ScoreForm(missing_value=-1))
        assert list(found.names) == ["a"] and found.values.tolist() == [0.5]
        assert found.remarks[-1].startswith("3 of 4 rows hold no value, first 'b'")


NAMES, VALUES = ["n/a.jpg", "n/b, c.jpg"], [0.25, -3.5]
RECORDS = [{"path": name, "quality": value} for name, value in zip(NAMES, VALUES, strict=True)]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("q.json", json.dumps(dict(zip(NAMES, VALUES, strict=True)))),
        ("q.json", json.dumps(list(zip(NAMES, VALUES, strict=True)))),
        ("q.json", json.dumps({name: [value] for name, value in zip(NAMES, VALUES, strict=True)})),
        ("q.json", json.dumps(RECORDS)),
        ("q.json", json.dumps([{"score": one["quality"], "image": one["path"], "index": 3} for one in RECORDS])),
        ("q.json", "\ufeff" + json.dumps({"names": NAMES, "scores": VALUES})),
        ("q.jsonl", "\n".join(map(json.dumps, RECORDS)) + "\n\n"),
        ("q.ndjson", "\n".join(json.dumps(pair) for pair in zip(NAMES, VALUES, strict=True))),
    ],
)
def test_json(tmp_path, name, content):
    found = read_scores(written(tmp_path, content, name))
    assert list(found.names) == NAMES and found.values.tolist() == VALUES


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.int8])
def test_numpy_files(tmp_path, dtype):
    values = np.array(VALUES).astype(dtype)
    np.savez(tmp_path / "q.npz", names=np.array(NAMES), scores=values, embeddings=np.ones((2, 4)))
    np.savez(tmp_path / "b.npz", path=np.array(NAMES).astype("S"), quality=values)
    np.save(tmp_path / "q.npy", values)
    (tmp_path / "q.lst").write_text("".join(f"{name}\n" for name in NAMES))
    np.save(tmp_path / "d.npy", dict(zip(NAMES, values, strict=True)), allow_pickle=True)
    for name in ("q.npz", "b.npz", "q.npy", "d.npy"):
        found = read_scores(tmp_path / name)
        assert list(found.names) == NAMES and found.values.tolist() == values.tolist(), name


def test_feather(tmp_path):
    table = pa.table({"id": ["7", "8"], "path": NAMES, "quality": VALUES})
    pyarrow.feather.write_feather(table, tmp_path / "q.feather")
    found = read_scores(tmp_path / "q.feather")
    assert list(found.names) == NAMES and found.values.tolist() == VALUES
    assert found.remarks == ("took column 'quality' of id, path, quality",)


def test_columns_names_what_json_npz_and_feather_hold(tmp_path):
    columns = {"crop": NAMES, "det": [0.9, 0.8], "cr_fiqa": VALUES}
    np.savez(tmp_path / "q.npz", **{title: np.array(values) for title, values in columns.items()})
    (tmp_path / "q.json").write_text(json.dumps(columns))
    (tmp_path / "q.jsonl").write_text(
        "\n".join(json.dumps(dict(zip(columns, row, strict=True))) for row in zip(*columns.values(), strict=True))
    )
    pyarrow.feather.write_feather(pa.table(columns), tmp_path / "q.feather")
    form = ScoreForm.model_validate({"columns": {"name": "crop", "score": "cr_fiqa"}})
    for name in ("q.npz", "q.json", "q.jsonl", "q.feather"):
        with pytest.raises(DataError, match="has columns crop, det, cr_fiqa; expected path and quality, or name them"):
            read_scores(tmp_path / name)
        found = read_scores(tmp_path / name, form)
        assert list(found.names) == NAMES and found.values.tolist() == VALUES, name


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ('{"a.jpg": 0.5, "a.jpg": 0.7}', "'a.jpg' occurs twice"),
        ('{"a.jpg": "high"}', "the score of 'a.jpg' is 'high', no finite number"),
        ('{"a.jpg": Infinity}', "no finite number"),
        ('[["a.jpg", 1], ["b.jpg"]]', "entry 1 is ['b.jpg'], no (name, score) pair"),
        ('[{"path": "a.jpg", "quality": 1}, {"path": "b.jpg"}]', "entry 1 has path, the first path, quality"),
        ('[{"path": "a.jpg", "score": 1, "age": 3}]', "'score' may be the quality, or 'age'"),
        ('{"paths": ["a.jpg"], "scores": [1], "ages": [3]}', "'scores' may be the quality, or 'ages'; say which"),
        ('{"path": ["a.jpg", "b.jpg"], "quality": [1]}', "2 names but 1 scores"),
        ('{"a.jpg": null}', "no row holds a value"),
        ("{}", "holds no rows"),
        ("3", "found int"),
        ('{"a.jpg": 1', "cannot be read as JSON"),
    ],
)  # fmt: skip
def test_damage_in_json_is_named(tmp_path, content, said):
    path = written(tmp_path, content, "q.json")
    with pytest.raises(DataError) as caught:
        read_scores(path)
    message = str(caught.value)
    assert message.startswith(str(path)) and said in message and "\n" not in message and len(message) < 400


def test_arrays_of_many_columns_are_no_scores(tmp_path):
    np.save(tmp_path / "e.npy", np.ones((3, 4)))
    with pytest.raises(DataError, match="no list of scores"):
        read_scores(tmp_path / "e.npy")
    np.savez(tmp_path / "e.npz", names=np.array(["a", "b"]), embeddings=np.ones((2, 4)))
    with pytest.raises(DataError, match="has columns names; expected path and quality"):
        read_scores(tmp_path / "e.npz")


@pytest.mark.parametrize("protocol", [0, 2, 4, 5])
@pytest.mark.parametrize("number", [0.25, np.float32(0.25), np.float64(0.25), np.array(0.25), np.array([0.25]), [0.25]])
def test_pickles(tmp_path, number, protocol):
    expected = {"train/n1/a b.jpg": 0.25, "x.jpg": 1.0}
    pairs = [("train/n1/a b.jpg", number), ("x.jpg", 1)]
    for value in (dict(pairs), pairs, tuple(pairs), [list(pair) for pair in pairs]):
        assert scores(written(tmp_path, pickle.dumps(value, protocol), "q.pkl")) == expected


def test_pairs_as_an_array_of_objects_and_names_as_bytes(tmp_path):
    value = np.array([["a.jpg", 0.5], ["b.jpg", 1]], dtype=object)
    assert scores(written(tmp_path, pickle.dumps(value), "q.pkl")) == {"a.jpg": 0.5, "b.jpg": 1.0}
    content = b"\x80\x02}U\x05a.jpgG?\xe0\x00\x00\x00\x00\x00\x00s."  # as Python 2 writes {"a.jpg": 0.5}
    assert scores(written(tmp_path, content, "q.pkl")) == {"a.jpg": 0.5}


def test_quality_scores_of_inference(tmp_path):
    value = {"/data/x/a.jpg": np.float32(0.1), "/data/x/b.jpg": np.float32(2)}
    assert scores(written(tmp_path, pickle.dumps(value), "quality-scores.pkl")) == {
        "/data/x/a.jpg": float(np.float32(0.1)),
        "/data/x/b.jpg": 2.0,
    }


@pytest.mark.parametrize("dtype", [pa.float32(), pa.float64(), pa.int64()])
def test_parquet(tmp_path, dtype):
    columns = {"percentile": [1, 2, 3], "path": ["a,b.jpg", "é", "c"], "quality": pa.array([1, 2, 3], dtype)}
    pa.parquet.write_table(pa.table(columns), tmp_path / "q.parquet", row_group_size=2)
    assert scores(tmp_path / "q.parquet") == {"a,b.jpg": 1.0, "é": 2.0, "c": 3.0}


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ({"a.jpg": "high"}, "the score of 'a.jpg' is 'high', no finite number"),
        ({"a.jpg": None}, "no row holds a value"),
        ({"a.jpg": float("inf")}, "the score of 'a.jpg' is inf"),
        ({"a.jpg": np.array([1.0, 2.0])}, "no finite number"),
        ({1: 0.5}, "entry 0 is (1, 0.5), no (name, score) pair"),
        ([("a.jpg", 1.0), ("b.jpg",)], "entry 1 is ('b.jpg',)"),
        ([("a.jpg", 1.0), ("a.jpg", 2.0)], "entry 1: 'a.jpg' has 2 but 1 before (entry 0)"),
        ({"a": 1.0, "./a": 2.0}, "entry 1: './a' has 2 but 1 before"),
        ("text", "expected a dict or (name, score) pairs, found str"),
        (np.float32(3), "expected a dict or (name, score) pairs"),
        ({}, "holds no rows"),
        ([], "holds no rows"),
        (np.zeros((2, 3)), "entry 0 is [0.0, 0.0, 0.0]"),
        (np.array(3.0), "found float"),
    ],
)
def test_damage_in_a_pickle_is_named(tmp_path, value, said):
    path = written(tmp_path, pickle.dumps(value), "q.pkl")
    with pytest.raises(DataError) as caught:
        read_scores(path)
    assert str(caught.value).startswith(str(path)) and said in str(caught.value)


def test_damage_in_parquet_is_named(tmp_path):
    cases = {
        "has columns x, y": pa.table({"x": ["a"], "y": [1.0]}),
        "the score of 'b' (row 1) is not finite": pa.table({"path": ["a", "b"], "quality": [1.0, float("inf")]}),
        "no row holds a value": pa.table({"path": ["a"], "quality": pa.array([None], pa.float64())}),
        "a name is missing": pa.table({"path": ["a", None], "quality": [1.0, 2.0]}),
        "cannot be read as parquet": pa.table({"path": ["a"], "quality": ["high"]}),
        "row 1: 'a' has 2 but 1 before (row 0)": pa.table({"path": ["a", "a"], "quality": [1.0, 2.0]}),
        "holds no rows": pa.table({"path": pa.array([], pa.string()), "quality": pa.array([], pa.float64())}),
    }
    path = tmp_path / "q.parquet"
    for said, table in cases.items():
        pa.parquet.write_table(table, path)
        with pytest.raises(DataError) as caught:
            read_scores(path)
        assert str(caught.value).startswith(str(path)) and said in str(caught.value)
    for content in (b"", b"PAR1 and more"):
        path.write_bytes(content)
        with pytest.raises(DataError, match="cannot be read as parquet"):
            read_scores(path)
