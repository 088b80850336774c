"""Hostile tables and settings, small ones that hang, fill memory or raise odd errors, end as one sentence, soon."""

import pickle

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import train_main
from data.tables.landmarks import read_landmarks
from data.tables.scores import read_scores
from evaluation.pairs.readers import read_pairs
from evaluation.protocol.face_set import FaceSet
from evaluation.protocol.metadata import read_metadata
from tests.helpers.hostile import refused
from utils import cli
from utils.config.inference import InferenceBase
from utils.config.loading import read_yaml, validate
from utils.errors import UserError
from utils.outside.reading import about, reading, shown


def laughs(levels, start=b")"):
    """Return the pickle of a tuple that holds the one before three times, and so on."""
    return start + b"q\x01" + b"h\x01h\x01h\x01\x87q\x01" * levels


PICKLES = {
    "memo.pkl": b"\x80\x02Nr\xff\xff\xff\x7f.",
    "list.pkl": b"\x80\x02](X\x01\0\0\0a" + laughs(40) + b"\x86e.",
    "value.pkl": b"\x80\x02}X\x01\0\0\0a" + laughs(40) + b"s.",
    "key.pkl": b"\x80\x02}" + laughs(40) + b"K\x01s.",
    "itself.pkl": b"\x80\x02]q\x00h\x00a.",
    "deep.pkl": b"\x80\x02]" + b")" + b"\x85" * 100_000 + b"a.",
    "set.pkl": pickle.dumps({1, 2}, 4),
    "number.pkl": pickle.dumps({"a": 10**4000}, 4),
    "digits.pkl": pickle.dumps({"a": 10**9000}, 4),
    "half.pkl": pickle.dumps({"a": 0.5}, 4)[:-4],
    "surrogate.pkl": b"\x80\x02}X\x03\0\0\0\xed\xa0\x80K\x01s.",
    "method.pkl": b"\x80\x02ccollections\nOrderedDict\n)R}X\x05\0\0\0itemsX\x01\0\0\0xsb.",
    "empty_numbers.pkl": b"\x80\x03cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\nK\0\x85X\x01\0\0\0btR"
    b"(K\x01(\x8a\x06\0\0\0\0\0\x01tcnumpy\ndtype\n(X\x02\0\0\0S0K\0K\x01tR\x89C\x00tb.",
}


@pytest.mark.parametrize("name", PICKLES)
@pytest.mark.parametrize("read", [read_scores, read_landmarks])
def test_pickles(tmp_path, name, read):
    (tmp_path / name).write_bytes(PICKLES[name])
    refused(read, tmp_path / name)


def test_what_pickles_share_honestly_is_read(tmp_path):
    score = [0.25]
    (tmp_path / "shared.pkl").write_bytes(pickle.dumps([("a", score), ("b", score)], 2))
    assert read_scores(tmp_path / "shared.pkl").values.tolist() == [0.25, 0.25]


def test_a_large_pickle_that_asks_for_more_than_it_can_be_worth(tmp_path):
    """A file beyond the size that is read with care meets the bound of memory."""
    (tmp_path / "large.pkl").write_bytes(b"\x80\x02" + b"N0" * (3 << 20) + b"Nr\xff\xff\xff\x7f.")
    assert "memory" in refused(read_scores, tmp_path / "large.pkl")


LETTERS = list(zip("abcdefghijklmnopqrs", "bcdefghijklmnopqrst"))
YAMLS = {
    "laughs.yaml": "a: &a {x: 1}\n" + "".join(f"{b}: &{b} {{x: *{a}, y: *{a}}}\n" for a, b in LETTERS),
    "merge.yaml": "a: &a {x: 1}\n" + "".join(f"{b}: &{b} {{<<: [*{a}, *{a}]}}\n" for a, b in LETTERS),
    "itself.yaml": "a: &a [*a]\n",
    "deep.yaml": "a: " + "[" * 5000,
    "tag.yaml": "a: !!int x\n",
    "time.yaml": "a: !!timestamp zz\n",
    "date.yaml": "a: 2001-99-99\n",
    "key.yaml": "? [a]\n: 1\n",
    "hex.yaml": "a: 0x_\n",
    "map.yaml": "a: !!map x\n",
    "python.yaml": "a: !!python/object/apply:os.system [ls]\n",
    "long.yaml": "a: 1\n" * 300_000,
    "latin.yaml": b"a: \xff\n",
}  # fmt: skip


@pytest.mark.parametrize("name", YAMLS)
def test_yaml(tmp_path, name):
    content = YAMLS[name]
    (tmp_path / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    refused(read_yaml, tmp_path / name)


@pytest.mark.parametrize("value", ['"a\\0b"', '"' + "long/" * 2000 + '"', "[" + "1, " * 1000 + "]", "0x" + "f" * 9000])
def test_a_command_says_one_short_sentence_about_any_setting(tmp_path, capsys, value):
    (tmp_path / "train.yaml").write_text(f"base: {{save_path: {value}, epochs: 1, nothing: {value}}}\n")
    assert cli.run(lambda: train_main.main(["-c", str(tmp_path / "train.yaml")])) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert "train.yaml" in said
    assert len(said) <= 401


def test_a_path_with_nul_is_refused_as_a_setting():
    with pytest.raises(UserError, match="save_path: a path holds no NUL"):
        validate(InferenceBase, {"save_path": "a\0b"}, "base")


def test_parquet_that_repeats_one_long_name(tmp_path):
    name = pa.DictionaryArray.from_arrays(pa.array(np.zeros(2_000_000, np.int32)), pa.array(["n" * 1000]))
    pq.write_table(pa.table({"path": name, "quality": np.zeros(2_000_000)}), tmp_path / "bomb.parquet")
    assert (tmp_path / "bomb.parquet").stat().st_size < 1 << 20
    refused(read_scores, tmp_path / "bomb.parquet")


def test_parquet_of_names_that_repeat_stays_readable(tmp_path):
    pq.write_table(pa.table({"path": ["a", "b", "a"], "quality": [0.5, 0.25, 0.5]}), tmp_path / "few.parquet")
    scores = read_scores(tmp_path / "few.parquet")
    assert list(scores.names) == ["a", "b"]
    assert scores.values.tolist() == [0.5, 0.25]


PAIRS = {
    "head.txt": ("lfw", "² ²\nA 1 2\n"),
    "cell.txt": ("lfw", "A 1 2\nA ² 1\n"),
    "long.txt": ("lfw", "A 1 " + "9" * 5000 + "\n"),
    "list.txt": ("list", "a b 2\n"),
    "fold_0_data.txt": ("adience", "user_id\toriginal_image\tface_id\nu\t?.jpg\t**\nv\tc\t2\n"),
    "images.bin": ("bin", pickle.dumps(([b"", 5], [True]))),
    "flags.bin": ("bin", pickle.dumps((5, 5))),
    "shares.bin": ("bin", b"\x80\x02](" + laughs(30) + b"h\x01e](K\x01e\x86."),
}


@pytest.mark.parametrize("name", PAIRS)
def test_pairs(tmp_path, name):
    form, content = PAIRS[name]
    (tmp_path / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    if form == "adience":
        with pytest.raises(UserError, match="no mated pair"):
            read_pairs(tmp_path / name, form, tmp_path)
    else:
        refused(lambda path: read_pairs(path, form), tmp_path / name)


@pytest.mark.parametrize(
    "line",
    [
        "1 ../Data",
        "1 ..//x/y",
        "² a/b/c/d",
        "1 ../a/../b/c.jpg",
        "9" * 5000 + " a/b/c",
        "3 ../Data/Imag",
        "1",
    ],
)
def test_cfp_lists_with_short_paths(tmp_path, line):
    (tmp_path / "Split/FP/01").mkdir(parents=True)
    for name in ("same", "diff"):
        (tmp_path / f"Split/FP/01/{name}.txt").write_text("1,1\n")
    for kind in "FP":
        (tmp_path / f"Pair_list_{kind}.txt").write_text(f"{line}\n")
    with pytest.raises(UserError, match=r"Pair_list_F\.txt, line 1: expected `number path`"):
        read_pairs(tmp_path, "cfp_fp")


METADATA = {
    "empty.csv": b"",
    "short rows.csv": b"path,kind\na\nb\n",
    "long rows.csv": b"path,blur\na,1,2,3\n",
    "another.csv": b"name,blur\na,1\n",
    "latin.csv": b"path,blur\na\xff,1\n",
    "nul.csv": b"path,blur\n" + b"\0" * 200_000 + b",1\n",
    "field.csv": b"path,blur\n" + b"a" * 200_000 + b",1\n",
    "quote.csv": b'path,blur\n"' + b"a\n" * 100_000,
}


@pytest.mark.parametrize("name", METADATA)
def test_metadata(tmp_path, name):
    (tmp_path / "pairs.txt").write_text("a b 1\na c 0\n")
    pairs = read_pairs(tmp_path / "pairs.txt", "list")
    (tmp_path / name).write_bytes(METADATA[name])
    refused(lambda path: read_metadata(path, FaceSet("x", pairs, None), pairs.names), tmp_path / name)


@pytest.mark.parametrize("value", ["inf", "-inf", "nan", "1e999", "9" * 5000, "²", "1_0", ""])
def test_numbers_of_metadata_that_are_none(tmp_path, value):
    """A column with infinite values is no scale of nuisance; one that is no number is left out, whatever it holds."""
    (tmp_path / "pairs.txt").write_text("a b 1\na c 0\n")
    pairs = read_pairs(tmp_path / "pairs.txt", "list")
    (tmp_path / "meta.csv").write_text(f"path,blur,yaw\na,1,1\nb,{value},2\nc,3,4\n")
    found = read_metadata(tmp_path / "meta.csv", FaceSet("x", pairs, None), pairs.names)
    assert found.columns["yaw"].tolist() == [1, 2, 4]
    assert set(found.columns) == {"yaw"} or np.isfinite(found.columns["blur"]).all()


def test_memory_has_a_bound_and_gets_it_back():
    with pytest.raises(UserError, match="needs more memory"), reading("f"):
        np.ones(1 << 28)
    assert len(np.empty(1 << 28)) == 1 << 28


def test_what_is_shown_is_short_whatever_it_holds():
    shared: list = []
    for _ in range(200):
        shared = [shared, shared]
    circle: list = []
    circle.append(circle)
    objects = np.empty(2, object)
    objects[0] = shared
    values = [shared, circle, 10**9000, "a\n" * 100_000, b"\xff" * 1000, objects, {"a": shared}]
    for value in values:
        assert len(shown(value)) <= 80
        assert "\n" not in shown(value)
    assert shown(b"n01/a.jpg") == shown("n01/a.jpg") == "'n01/a.jpg'"
    assert shown([1, 2.5, "x"]) == "[1, 2.5, 'x']"


def test_a_sentence_has_one_line_and_400_characters_at_most():
    long = UserError("runs/a.csv: " + "b " * 500 + "is no number; mend\nthe row")
    assert len(str(long)) < 400
    assert str(long).startswith("runs/a.csv: b b")
    assert str(long).endswith("is no number; mend the row")
    assert str(UserError("short")) == "short"


def test_an_error_names_the_file_it_is_about():
    with pytest.raises(UserError, match=r"^a\.csv: 'x' may be 'y' or 'z'$"), about("a.csv"):
        raise UserError("'x' may be 'y' or 'z'")
    with pytest.raises(UserError, match=r"^b/a\.csv, line 1: wrong$"), about("b/a.csv"):
        raise UserError("b/a.csv, line 1: wrong")
