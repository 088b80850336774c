"""data/tables/scores.py and the text tables below it: every way to write a score, and errors that name the place."""

import csv
import gzip
import io
import pickle

import numpy as np
import pyarrow as pa
import pyarrow.feather
import pyarrow.parquet
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from data.tables import text_tables
from data.tables.columns import Content
from data.tables.scores import read_scores, write_scores_csv
from tests.helpers.tables import scores, written
from utils.config.sections import ScoreForm
from utils.errors import DataError


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("a.jpg 0.5\nb.jpg -1e-3\n", {"a.jpg": 0.5, "b.jpg": -0.001}),  # CR-FIQA, GraFIQs
        ("my face, 1.jpg 0.5\nb 7.jpg 2\n", {"my face, 1.jpg": 0.5, "b 7.jpg": 2.0}),
        ("a b.jpg\t0.5\nc\td.jpg\t3\n", {"a b.jpg": 0.5, "c\td.jpg": 3.0}),  # SDD-FIQA
        ("img;score\na b.jpg;[0.64]\nc;d.jpg;[0.5]\n", {"a b.jpg": 0.64, "c;d.jpg": 0.5}),  # FaceQnet
        ("a.jpg;0.64\n", {"a.jpg": 0.64}),
        ('path,quality\na.jpg,0.5\n"b, ""c""\nd.jpg",1\n', {"a.jpg": 0.5, 'b, "c"\nd.jpg': 1.0}),
        ("path,quality,percentile\na.jpg,3.5,10\nb.jpg,2.5,0\n", {"a.jpg": 3.5, "b.jpg": 2.5}),
        ("percentile,Score,image\n10,3.5,a.jpg\n", {"a.jpg": 3.5}),
        ("a.jpg,3.5,10\nb.jpg,2.5,0\n", {"a.jpg": 3.5, "b.jpg": 2.5}),
        ("a.jpg,0.5\nb.jpg,1", {"a.jpg": 0.5, "b.jpg": 1.0}),
        ("whatever,is here\na.jpg,0.5\n", {"a.jpg": 0.5}),
        ("name value\na.jpg 0.5\n", {"a.jpg": 0.5}),
        ("\ufeffpath,quality\r\na.jpg,0.5\r\n\r\nb.jpg,1\r\n", {"a.jpg": 0.5, "b.jpg": 1.0}),
        ("a.jpg 0.5\r\nb.jpg 1\r\n", {"a.jpg": 0.5, "b.jpg": 1.0}),
        ("\n\na.jpg 0.5\n\n", {"a.jpg": 0.5}),
        ("a.jpg 0.5\ra b.jpg 1\r", {"a.jpg": 0.5, "a b.jpg": 1.0}),
        ("a.jpg 1\nb.jpg 2\na.jpg 1\n", {"a.jpg": 1.0, "b.jpg": 2.0}),
        ("é ü.jpg 0.5\n", {"é ü.jpg": 0.5}),
        (b"caf\xe9 x.jpg 0.5\n", {"caf\udce9 x.jpg": 0.5}),
        (b"caf\xe9.jpg,0.5\n", {"caf\udce9.jpg": 0.5}),
        ("a.jpg  0.5\nb.jpg   1  \n", {"a.jpg": 0.5, "b.jpg": 1.0}),
        ("image_name,identity,quality\na.jpg,3,0.5\nb.jpg,4,0.25\n", {"a.jpg": 0.5, "b.jpg": 0.25}),
        ("path,label\na.jpg,3\nb.jpg,4\n", {"a.jpg": 3.0, "b.jpg": 4.0}),  # a list of classes
        ("subject,quality\n0001,0.5\n0002,1\n", {"0001": 0.5, "0002": 1.0}),
        ("path\tidentity\tquality\na b.jpg\t3\t0.5\n", {"a b.jpg": 0.5}),
        ("path;quality;percentile\na.jpg;0.5;99.5\nb.jpg;0.25;50\n", {"a.jpg": 0.5, "b.jpg": 0.25}),
        ("path quality percentile\na.jpg 0.5  99.5\n", {"a.jpg": 0.5}),
        ("path;quality\na.jpg;0,53\nb.jpg;1\n", {"a.jpg": 0.53, "b.jpg": 1.0}),  # decimal commas
        ("a.jpg;0,53\nb.jpg;0,61\n", {"a.jpg": 0.53, "b.jpg": 0.61}),
        ("face 1;0,53\n", {"face 1": 0.53}),
        ("path;identity;quality\na.jpg;3;0,53\n", {"a.jpg": 0.53}),
        ("path\tquality\na.jpg\t0,53\n", {"a.jpg": 0.53}),
        ("path quality\nface1 0,53\n", {"face1": 0.53}),
        ("a.jpg 0,53\n", {"a.jpg": 0.53}),
        ('path,quality\na.jpg,"0,53"\n', {"a.jpg": 0.53}),
        ("face 12,3\nc;d 7.jpg,0.5\n", {"face 12": 3.0, "c;d 7.jpg": 0.5}),  # commas that separate
        ("age path quality\n30 0001 0.5\n31 0002 1\n", {"0001": 0.5, "0002": 1.0}),
        ("age path quality\n30 a.jpg 0.5\n31  b.jpg  1\n", {"a.jpg": 0.5, "b.jpg": 1.0}),
        ("\n\nimg;score\n\na.jpg;[0.5]\n  \nb.jpg;1\n", {"a.jpg": 0.5, "b.jpg": 1.0}),  # lines of blanks
        ("path;age;quality\na.jpg;30;[0.5]\nb.jpg;31;1\n", {"a.jpg": 0.5, "b.jpg": 1.0}),
        ("a.jpg +0.5\nb.jpg .5\n", {"a.jpg": 0.5, "b.jpg": 0.5}),
        ("a.jpg\t0.5\t\nb.jpg\t1\n", {"a.jpg": 0.5, "b.jpg": 1.0}),  # an empty last column
    ],
)
def test_text_formats(tmp_path, content, expected):
    assert scores(written(tmp_path, content)) == expected


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("sep=;\r\npath;quality\r\na.jpg;0,5\r\nb.jpg;1\r\n", {"a.jpg": 0.5, "b.jpg": 1.0}),  # Excel
        ("sep=;\na.jpg;0.5\n", {"a.jpg": 0.5}),
        ("path , quality\na b.jpg , 0.5\nc.jpg,1\n", {"a b.jpg": 0.5, "c.jpg": 1.0}),
        ("path;quality\na.jpg;1\nb.jpg;2\nc.jpg;0,53\n", {"a.jpg": 1.0, "b.jpg": 2.0, "c.jpg": 0.53}),
        ("a.jpg 1\nb.jpg 2\nc.jpg 0,53\n", {"a.jpg": 1.0, "b.jpg": 2.0, "c.jpg": 0.53}),
        ("0,1\na.jpg,0.5\nb.jpg,1\n", {"a.jpg": 0.5, "b.jpg": 1.0}),  # pandas, columns without names
        (",0\na.jpg,0.5\nb.jpg,1\n", {"a.jpg": 0.5, "b.jpg": 1.0}),  # pandas, a Series
        (gzip.compress(b'path,quality\r\n"a.jpg",0.5\r\n', mtime=0), {"a.jpg": 0.5}),
        ("path\tquality\r\né.jpg\t0.5\r\nb.jpg\t1\r\n".encode("utf-16"), {"é.jpg": 0.5, "b.jpg": 1.0}),
    ],
)
def test_text_as_other_programs_write_it(tmp_path, content, expected):
    assert scores(written(tmp_path, content)) == expected


@pytest.mark.parametrize(
    ("content", "form", "expected", "said"),
    [
        (
            "path,label,fiq\na.jpg,3,0.5\n",
            {"columns": {"name": "path", "score": "FIQ"}},
            0.5,
            "'fiq' of path, label, fiq",
        ),
        ("n;s;label\na.jpg;0,5;3\n", {"columns": {"name": "n", "score": "s"}}, 0.5, "'s' of n, s, label"),
        ("a.jpg,17,0.5\n", {"columns": {"name": 1, "score": 3}}, 0.5, "3 of 3"),
        ("17 0.5 a.jpg\n18 0.25 b.jpg\n", {"columns": {"name": 3, "score": 2}}, 0.5, "2 of 3"),
        ("who,what\na.jpg,0.5\n", {"columns": {"name": 1, "score": "what"}}, 0.5, "'what' of who, what"),
        ("a.jpg;1.234\n", {"decimal": "."}, 1.234, "2 of 2"),
        ("a.jpg;1,234\n", {"separator": "semicolon"}, 1.234, "2 of 2"),
        ("a;b.jpg 0.5\n", {"separator": "blank"}, 0.5, "2 of 2"),
    ],
)
def test_the_user_says_what_a_table_holds(tmp_path, content, form, expected, said):
    table = read_scores(written(tmp_path, content), ScoreForm(**form))
    assert table.values[0] == expected and table.remarks == (f"took column {said}",)


def test_a_column_that_is_not_there_is_named(tmp_path):
    path = written(tmp_path, "path,label,fiq\na.jpg,3,0.5\n")
    for column in ("quality", 4):
        with pytest.raises(DataError, match=f"has no column {column!r} but 'path', 'label', 'fiq'"):
            read_scores(path, ScoreForm(columns={"name": "path", "score": column}))


@pytest.mark.parametrize("title", ["score", "label", "value"])
def test_a_generic_title_beside_other_numbers_is_refused(tmp_path, title):
    text = f"image,x1,{title},cr_fiqa\na.jpg,10,0.99,0.5\n"
    said = rf"'{title}' may be the quality, or 'x1', 'cr_fiqa'; say which with columns: {{name: TITLE, score: TITLE}}"
    table = pa.table({"image": ["a.jpg"], "x1": [10], title: [0.99], "cr_fiqa": [0.5]})
    pa.parquet.write_table(table, tmp_path / "q.parquet")
    for path in (written(tmp_path, text, "q.csv"), tmp_path / "q.parquet"):
        with pytest.raises(DataError, match=said):
            read_scores(path)
        form = ScoreForm(columns={"name": "image", "score": "cr_fiqa"})
        assert read_scores(path, form).values.tolist() == [0.5]
    with pytest.raises(DataError, match=f"'{title}' may be the quality, or 'img2'"):
        read_scores(written(tmp_path, f"img1,img2,{title}\na.jpg,b.jpg,1\n"))
    kept = f"path,{title},note,percentile\na.jpg,0.5,good,50\n"  # text and ranks are no other quality
    assert scores(written(tmp_path, kept)) == {"a.jpg": 0.5}


@pytest.mark.parametrize("cell", ["nan", "NaN", "", "None", "null", "NA", "-1"])
@pytest.mark.parametrize("form", ["{0},{1}", "{0};{1}", "{0} {1}"])
def test_rows_without_a_score_are_left_out_and_counted(tmp_path, cell, form):
    if not cell and " " in form:
        return  # then the name is all there is
    first, empty, last = ("a.jpg", "0.5"), ("b.jpg", cell), ("c.jpg", "1")
    for rows in ([first, empty, last], [empty, first, last]):
        path = written(tmp_path, "".join(form.format(*row) + "\n" for row in rows))
        table = read_scores(path, ScoreForm(missing_value=-1))
        assert dict(zip(table.names, table.values.tolist(), strict=True)) == {"a.jpg": 0.5, "c.jpg": 1.0}
        line = rows.index(empty) + 1
        assert table.remarks[1] == f"1 of 3 rows hold no value, first 'b.jpg', line {line}"


def test_two_scores_of_one_image_are_merged_where_the_user_says_how(tmp_path):
    path = written(tmp_path, "a.jpg 1\nb.jpg 2\na.jpg 5\n./a.jpg 0\n")
    with pytest.raises(DataError, match="or set repeats: mean, min or max"):
        read_scores(path)
    for how, expected in (("mean", 2.0), ("min", 0.0), ("max", 5.0)):
        table = read_scores(path, ScoreForm(repeats=how))
        assert dict(zip(table.names, table.values.tolist(), strict=True)) == {"a.jpg": expected, "b.jpg": 2.0}


def test_a_list_of_embeddings_is_no_list_of_scores(tmp_path):
    path = written(tmp_path, "".join(f"n/{i} " + "0.25 " * 16 + "\n" for i in range(3)))
    with pytest.raises(DataError, match="line 1: found 17 columns, a name with a quality takes 2"):
        read_scores(path)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"PK\x03\x04\x14\0\x06\0xl/worksheets", "an Excel workbook; save the sheet as CSV"),
        (b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR", "an image; name a file with names and numbers"),
        (b"\x89HDF\r\n\x1a\n\0\0", "HDF5"),
        (pickle.dumps({"a": 1.0}), "a pickle; give it the suffix .pkl"),
        (b"\x01\0\x02", "is no text file; name a table of names and numbers"),
    ],
)
def test_what_is_no_text_gets_a_clear_word(tmp_path, content, said):
    with pytest.raises(DataError) as caught:
        read_scores(written(tmp_path, content))
    assert said in str(caught.value) and "\\x" not in str(caught.value)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("a.jpg 0.5\nb.jpg\n", "line 2: expected 2 columns (a name and a quality), found 1 in 'b.jpg'"),
        ("a.jpg 0.5\nb.jpg x\n", "line 2, 'b.jpg': 'x' is no number"),
        ("a.jpg 0.5\n\nb.jpg -inf\n", "line 3, 'b.jpg': '-inf' is not finite"),
        ("a.jpg\t0.5\nb.jpg 1\n", "line 2: expected 2 columns"),
        ("img;score\na.jpg;[x]\nb;[1]\n", "line 2"),
        ("path,quality\na.jpg,0.5\nb,c.jpg,1\n", "line 3: expected 2 columns (a name and a quality), found 3"),
        ('path,quality\n"a\n.jpg",0.5\nb.jpg,1_0\n', "line 4, 'b.jpg': '1_0' is no number"),
        ("path,quality\na.jpg,high\n", "line 2, 'a.jpg': 'high' is no number"),
        ("path,quality\na.jpg,0.5\n,1\n", "line 3: the name is empty"),
        ('path,quality\na.jpg,0.5\n"b.jpg,1\nc.jpg,2\n', "line 4: expected 2 columns"),
        ("a.jpg 1\nb.jpg 2\na.jpg 3\n", "line 3: 'a.jpg' has 3 but 1 before (line 1)"),
        ('path,quality\n"x\ny",1\na,2\na,2.5\n', "line 5: 'a' has 2.5 but 2 before (line 4)"),
        ("a.jpg 1\n./a.jpg 2\n", "line 2: './a.jpg' has 2 but 1 before (line 1)"),
        ("a.jpg,missing\nb.jpg,0.5\n", "line 1, 'a.jpg': 'missing' is no number"),
        ("n1/a missing\nn1/b 0.5\n", "line 1"),
        ("hello\nworld\n", "line 2: found 1 columns, a name with a quality takes 2: 'world'"),
        ("x1,y1,w,h\n1,2,3,4\n", "cannot tell the columns of the name and a quality among x1, y1, w, h"),
        ("path,age,fiqa\na.jpg,30,0.5\n", "cannot tell the columns of the name and a quality among path, age, fiqa"),
        ("image_name,label,quality\na.jpg,3,0.5\n", "among image_name, label, quality"),
        ("number,file_of,quality\n1,a.jpg,0.5\n", "among number, file_of, quality"),
        ("quality,file_of,age\n0.5,a.jpg,30\n", "among quality, file_of, age"),
        ("path;age;fiqa\na.jpg;30;0,5\n", "among path, age, fiqa"),
        ("a.jpg nan\nb.jpg None\n", "no row holds a value"),
        ("a.jpg,17,0.9\nb.jpg,18,0.3\n", "the third column is not the percentile of the second"),
        ("a.jpg,3,10\nb.jpg,3,20\n", "the third column is not the percentile of the second"),
        ("a.jpg,3,101\n", "the third column is not the percentile of the second"),
        ("a.jpg;17;0.9\n", "line 1: found 3 columns"),
        ("a.jpg 0.9 55.5\n", "line 1: found 3 columns"),
        ("a.jpg;1\nb.jpg;0,5\nc.jpg;1.5\n", "line 3, 'c.jpg': '1.5' is no number"),
        ("", "holds no rows"),
        ("path,quality\n", "holds no rows"),
        ("path quality percentile\na.jpg 1 50\nb c.jpg 2 99\n", "line 3: expected 3 columns"),
        ("subject,quality\na.jpg,1,50\nb.jpg,2,10\n", "the third column is not the percentile of the second"),
        ("path,quality\na.jpg,0.5\nb.jpg,[1]\n", "line 3, 'b.jpg': '[1]' is no number"),
        ("a.jpg 0.5\nb\x01.jpg 1\n", "cannot be read as a table with blanks"),
    ],
)
def test_damage_in_text_is_named(tmp_path, content, said):
    path = written(tmp_path, content)
    with pytest.raises(DataError) as caught:
        read_scores(path)
    message = str(caught.value)
    assert message.startswith(str(path)) and said in message and "\n" not in message


def test_a_missing_file_and_a_folder(tmp_path):
    for path in (tmp_path / "none.csv", tmp_path / "none.pkl", tmp_path / "none.parquet", tmp_path):
        with pytest.raises(DataError, match="cannot be read"):
            read_scores(path)


def test_written_files_read_back_exactly(tmp_path):
    values = np.random.default_rng(2).normal(size=40)
    names = [f'n{i}/"x", y\n{i};\t.jpg' for i in range(39)] + ["caf\udce9.jpg"]
    write_scores_csv(tmp_path / "labels.csv", names, values)
    assert scores(tmp_path / "labels.csv") == dict(zip(names, values.tolist(), strict=True))


awkward = st.text(st.sampled_from('ab ,;\t"\n\r.é'), min_size=1, max_size=8).filter(str.strip)
plain = st.text("ab .,é", min_size=1, max_size=6).filter(lambda name: name.strip(" ,"))
plain = plain.map(lambda name: name.strip(" ,"))
number = st.floats(allow_nan=False, allow_infinity=False).map(repr) | st.integers(-5, 5).map(str)


def check_rows(path, rows):
    """Compare what is read, line by line and by blocks, with what was written."""
    kinds = text_tables.find_dialect(path, QUALITY, ScoreForm()), QUALITY
    names, values = text_tables._read(path, *kinds)
    assert list(names) == [name for name, _ in rows] and values[:, 0].tolist() == [float(text) for _, text in rows]
    assert len(list(text_tables._lines_of_rows(path, *kinds))) == len(rows)


QUALITY = Content("a quality", (("quality",),))


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.tuples(awkward, number), min_size=1, max_size=6), st.booleans(), st.integers(3, 100))
def test_a_csv_holds_what_was_written_however_long_the_blocks(tmp_path, monkeypatch, rows, header, block_bytes):
    stream = io.StringIO(newline="")
    csv.writer(stream, quoting=csv.QUOTE_ALL).writerows([("path", "quality")] * header + rows)
    path = written(tmp_path, stream.getvalue(), "x.csv")
    monkeypatch.setattr(text_tables, "_BLOCK_BYTES", block_bytes * 20)
    check_rows(path, rows)


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.tuples(plain, number), min_size=1, max_size=6), st.sampled_from("\t; "), st.integers(3, 60))
@example([("a,,a", "0.0"), ("a,,a", "0.0")], ";", 3)
@example([("a,,a", "0.0"), ("a,,a", "0.0")], " ", 3)
def test_a_list_holds_what_was_written_however_long_the_blocks(tmp_path, monkeypatch, rows, separator, block_bytes):
    path = written(tmp_path, "".join(f"{name}{separator}{text}\n" for name, text in rows))
    monkeypatch.setattr(text_tables, "_BLOCK_BYTES", block_bytes * 20)
    check_rows(path, rows)
