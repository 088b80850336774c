"""data/tables/landmarks.py: every landmark format users have, and an error that names the place for every damage."""

import pickle

import numpy as np
import pytest

from data.tables.landmarks import read_landmarks, write_landmarks_csv
from tests.helpers.tables import written
from utils.config.sections import LandmarkForm
from utils.errors import DataError

POINTS = np.arange(10, dtype=np.float32).reshape(5, 2) + 0.25
NUMBERS = ",".join(str(value) for value in POINTS.ravel())
OTHER = ",".join(str(value) for value in POINTS.ravel() + 100)
VGG_HEADER = "NAME_ID,P1X,P1Y,P2X,P2Y,P3X,P3Y,P4X,P4Y,P5X,P5Y\n"
HEADER = "path,x1,y1,x2,y2,x3,y3,x4,y4,x5,y5\n"


def check(path, names):
    table = read_landmarks(path)
    assert list(table.names) == names
    assert table.points.dtype == np.float32 and table.points.shape == (len(names), 5, 2)
    assert np.array_equal(table.points[0], POINTS)
    if len(names) > 1:
        assert np.array_equal(table.points[1], POINTS + 100)


@pytest.mark.parametrize(
    ("content", "names"),
    [
        (f'{VGG_HEADER}"n000001/0001_01",{NUMBERS}\n"n2/0002_01",{OTHER}\n', ["n000001/0001_01", "n2/0002_01"]),
        (f"{HEADER}a/b.jpg,{NUMBERS}\nc.jpg,{OTHER}\n", ["a/b.jpg", "c.jpg"]),
        (f"a/b.jpg,{NUMBERS}\nc.jpg,{OTHER}\n", ["a/b.jpg", "c.jpg"]),
        (f"a/b.jpg,{NUMBERS}", ["a/b.jpg"]),
        (f"{HEADER}a.jpg,{NUMBERS}\r\n\r\nb.jpg,{OTHER}\r\n", ["a.jpg", "b.jpg"]),
        (f'{HEADER}"a, ""b""\nc.jpg",{NUMBERS}\n"é",{OTHER}\n', ['a, "b"\nc.jpg', "é"]),
        ("\ufeff" + f"{HEADER}a b.jpg,{NUMBERS}\n", ["a b.jpg"]),
        (f"score,{HEADER.strip()},w\n0.9,a.jpg,{NUMBERS},3\n0.8,b.jpg,{OTHER},4\n", ["a.jpg", "b.jpg"]),
        (f"a b.jpg {NUMBERS.replace(',', ' ')}\nc {OTHER.replace(',', '  ')}\n", ["a b.jpg", "c"]),
        (f"a b.jpg\t{NUMBERS.replace(',', chr(9))}\n", ["a b.jpg"]),
        (f"a.jpg,{NUMBERS}\nb.jpg,{OTHER}\na.jpg,{NUMBERS}\n", ["a.jpg", "b.jpg"]),
    ],
)
def test_text_formats(tmp_path, content, names):
    check(written(tmp_path, content), names)


def test_columns_in_another_order_are_found_by_name(tmp_path):
    header = "x5,y5,x4,y4,x3,y3,x2,y2,x1,y1,path\n"
    numbers = ",".join(str(value) for value in POINTS[::-1].ravel())
    check(written(tmp_path, f"{header}{numbers},a.jpg\n"), ["a.jpg"])


def test_a_name_that_is_no_utf_8(tmp_path):
    assert list(read_landmarks(written(tmp_path, b"caf\xe9.jpg," + NUMBERS.encode() + b"\n")).names) == [
        "caf\udce9.jpg"
    ]


@pytest.mark.parametrize("cells", [NUMBERS[:-4], NUMBERS[:-4] + "nan", "," * 9])
def test_rows_without_all_landmarks_are_left_out_and_counted(tmp_path, cells):
    table = read_landmarks(written(tmp_path, f"{HEADER}a.jpg,{NUMBERS}\nb.jpg,{cells}\nc.jpg,{OTHER}\n"))
    assert list(table.names) == ["a.jpg", "c.jpg"] and np.array_equal(table.points, [POINTS, POINTS + 100])
    assert table.remarks == ("1 of 3 rows hold no value, first 'b.jpg', line 3",)


BOX = [1.0, 2.0, 3.0, 4.0]


@pytest.mark.parametrize(
    "value",
    [
        (BOX, POINTS),
        [BOX, POINTS.tolist()],
        (np.array(BOX), [tuple(point) for point in POINTS.tolist()]),
        (None, POINTS.astype(np.float64)),
        (0.99, POINTS, "x"),
        POINTS,
        POINTS.tolist(),
        POINTS.ravel(),
        POINTS.ravel().tolist(),
        (BOX, POINTS.ravel()),
        (BOX, POINTS[None]),
        [BOX, [[np.float32(x), np.float64(y)] for x, y in POINTS]],
    ],
    ids=range(12),
)
@pytest.mark.parametrize("protocol", [0, 2, 4])
def test_pickle_forms(tmp_path, value, protocol):
    content = pickle.dumps({"n1/a.jpg": value, "n1/b.jpg": (BOX, POINTS + 100)}, protocol)
    check(written(tmp_path, content, "landmarks_data.pkl"), ["n1/a.jpg", "n1/b.jpg"])


def test_a_large_pickle_may_mix_forms(tmp_path):
    rng = np.random.default_rng(1)
    points = rng.uniform(0, 200, (9000, 5, 2)).astype(np.float32)
    forms = [lambda p: (BOX, p), lambda p: p.ravel().tolist(), lambda p: [None, p.tolist()]]
    table = {f"{row}.jpg": forms[row % 3 if row > 5000 else 0](value) for row, value in enumerate(points)}
    found = read_landmarks(written(tmp_path, pickle.dumps(table), "landmarks_data.pkl"))
    assert np.array_equal(found.points, points) and list(found.names) == list(table)


@pytest.mark.parametrize("faces", [np.stack, lambda both: [np.stack([BOX, BOX]), [0.9, 0.8], np.stack(both)], list])
def test_several_faces_in_a_pickle_are_never_taken_for_a_box_and_points(tmp_path, faces):
    small, large = POINTS / 2, POINTS + 100
    content = {"a.jpg": faces([large * 2, small]), "b.jpg": faces([small, large])}
    path = written(tmp_path, pickle.dumps(content), "x.pkl")
    with pytest.raises(DataError, match=r"'a.jpg' has .* before.*set landmark_faces: largest"):
        read_landmarks(path)
    table = read_landmarks(path, LandmarkForm(landmark_faces="largest"))
    assert list(table.names) == ["a.jpg", "b.jpg"] and np.array_equal(table.points, [large * 2, large])


def test_faces_of_detectors_in_a_pickle(tmp_path):
    faces = [{"bbox": BOX, "kps": POINTS + 7, "det_score": np.float32(0.5)}, {"kps": POINTS, "det_score": 0.9}]
    table = {"a.jpg": faces, "b.jpg": faces[:1], "none.jpg": [], "lost.jpg": (BOX, POINTS * np.nan)}
    found = read_landmarks(written(tmp_path, pickle.dumps(table), "x.pkl"), LandmarkForm(landmark_faces="best"))
    assert list(found.names) == ["a.jpg", "b.jpg"] and np.array_equal(found.points, [POINTS, POINTS + 7])
    assert found.remarks == ("2 of 5 rows hold no value, first 'none.jpg', face 3",)


def test_pickle_of_python_2(tmp_path):
    # {"a.jpg": [1, 2, ... 10]} with SHORT_BINSTRING as the name
    content = b"\x80\x02}U\x05a.jpg](" + b"".join(b"K" + bytes([n]) for n in range(1, 11)) + b"es."
    table = read_landmarks(written(tmp_path, content, "x.pkl"))
    assert list(table.names) == ["a.jpg"] and table.points.ravel().tolist() == list(range(1, 11))


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (f"{HEADER}a.jpg,{NUMBERS}\nb.jpg,1,2,3\n", "line 3: expected 11 columns"),
        (f"{HEADER}a.jpg,{NUMBERS}\nb.jpg,{NUMBERS},7\n", "line 3: expected 11 columns"),
        (f"{HEADER}a.jpg,{NUMBERS}\nb.jpg,{NUMBERS[:-4]}x\n", "line 3, 'b.jpg': 'x' is no number"),
        (f"a.jpg,{NUMBERS[:-4]}inf\n", "line 1, 'a.jpg': 'inf' is not finite"),
        (f"a.jpg,{NUMBERS}\n,{OTHER}\n", "line 2: the name is empty"),
        (f'{HEADER}"a\nb.jpg",{NUMBERS}\nc,{NUMBERS[:-4]}?\n', "line 4, 'c': '?' is no number"),
        (f"{HEADER}a.jpg,{NUMBERS}\nb,{NUMBERS}\na.jpg,{OTHER}\n", "line 4: 'a.jpg' has 100.25 101.25"),
        ('NAME_ID,X,Y,W,H\n"n1/a",1,2,3,4\n', "line 2: found 5 columns, a name with 5 landmarks"),
        (f"a.jpg,{NUMBERS.rpartition(',')[0]}\n", "line 1: found 10 columns, a name with 5 landmarks"),
        ("", "holds no rows"),
        (f"{HEADER}", "holds no rows"),
        ("\n\n", "holds no rows"),
    ],
)
def test_damage_in_text_is_named(tmp_path, content, said):
    path = written(tmp_path, content)
    with pytest.raises(DataError) as caught:
        read_landmarks(path)
    message = str(caught.value)
    assert message.startswith(str(path)) and said in message and "\n" not in message


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ({"a.jpg": (BOX, POINTS[:4])}, "'a.jpg' has no landmarks"),
        ({"a.jpg": "text"}, "'a.jpg' has no landmarks"),
        ({"a.jpg": None}, "no row holds a value"),
        ({"a.jpg": (BOX, None)}, "'a.jpg' has no landmarks"),
        ({"a.jpg": (BOX, [["x", "y"]] * 5)}, "'a.jpg' has no landmarks"),
        ({"b": POINTS, "a.jpg": POINTS * np.inf}, "'a.jpg' has a landmark that is not finite"),
        ({"b": (BOX, POINTS), "a.jpg": (BOX, POINTS * np.inf)}, "'a.jpg' has a landmark that is not finite"),
        ({3: POINTS}, "3 is no image name"),
        ([("a.jpg", POINTS)], "expected a dict of names, found list"),
        ({}, "holds no rows"),
    ],
)
def test_damage_in_a_pickle_is_named(tmp_path, value, said):
    path = written(tmp_path, pickle.dumps(value), "landmarks_data.pkl")
    with pytest.raises(DataError) as caught:
        read_landmarks(path)
    message = str(caught.value)
    assert message.startswith(str(path)) and said in message and "\n" not in message


def test_text_without_lines_is_named(tmp_path):
    for content in (b"x" * 200_000, b'"' + b"y" * 200_000, b"\x00" * 9, bytes(range(256))):
        path = written(tmp_path, content)
        with pytest.raises(DataError) as caught:
            read_landmarks(path)
        assert str(caught.value).startswith(str(path)) and len(str(caught.value)) < 400 + len(str(path))


def test_a_missing_file_and_a_folder(tmp_path):
    for path in (tmp_path / "none.csv", tmp_path / "none.pkl", tmp_path):
        with pytest.raises(DataError, match="cannot be read"):
            read_landmarks(path)


def test_written_files_read_back_exactly(tmp_path):
    rng = np.random.default_rng(3)
    points = rng.normal(100, 60, (50, 5, 2)).astype(np.float32)
    names = [f'n{i}/"x", y\n{i}.jpg' for i in range(49)] + ["caf\udce9.jpg"]
    write_landmarks_csv(tmp_path / "out.csv", names, points)
    table = read_landmarks(tmp_path / "out.csv")
    assert list(table.names) == names and np.array_equal(table.points, points)
    assert (tmp_path / "out.csv").read_bytes().startswith(HEADER.encode())
