"""data/tables/landmarks.py: the forms in which detectors and data sets write the points of faces, one file each."""

import json
import pickle

import numpy as np
import pytest

from data.tables.landmarks import HEADER, read_landmarks
from utils.config.sections import LandmarkForm
from utils.errors import DataError

A = np.array([[38.5, 51.25], [73, 52], [56, 71.5], [41, 92], [70.75, 92.5]])
B = A + np.array([200, 10])
SMALL = A * 0.5
NAMES = ["a/1.jpg", "b/2.jpg"]
LARGEST, BEST = LandmarkForm(landmark_faces="largest"), LandmarkForm(landmark_faces="best")
REDUCED = {68: (38.5, 44.5, 30, 48, 54), 98: (96, 97, 54, 76, 82)}
ORDERS = {
    "insightface_106": (38, 88, 86, 52, 61),
    "jd_106": (104, 105, 54, 84, 90),
    "sensetime_106": (74, 77, 46, 84, 90),
}


def flat(points, separator=" "):
    return separator.join(f"{value:g}" for value in np.ravel(points))


def with_flags(points, flag):
    return np.concatenate([points, np.full((len(points), 1), flag)], axis=1).ravel().tolist()


def read(tmp_path, name, content, form=None):
    path = tmp_path / name
    if isinstance(content, dict) and name.endswith(".npz"):
        np.savez(path, **content)
    elif isinstance(content, list | dict):
        path.write_text(json.dumps(content))
    else:
        path.write_text(content)
    return read_landmarks(path, form)


def check(table, points=(A, B), names=tuple(NAMES)):
    assert list(table.names) == list(names)
    assert table.points.dtype == np.float32
    np.testing.assert_array_equal(table.points, np.float32(points))


BOX = "30 30 60 80"
RETINAFACE = f"# a/1.jpg\n{BOX} {flat(with_flags(A, 0))} 0.4\n# b/2.jpg\n{BOX} {flat(with_flags(B, 1))} 0.9\n"
WIDER = f"a/1.jpg\n1\n{BOX} 0.99 {flat(A)}\nc/3.jpg\n0\nb/2.jpg\n1\n{BOX} 0.98 {flat(B)}\n"
PARTS = ("lefteye", "righteye", "nose", "leftmouth", "rightmouth")
CELEBA = " ".join(f"{part}_{axis}" for part in PARTS for axis in "xy")


@pytest.mark.parametrize(
    "content",
    [
        RETINAFACE,
        WIDER,
        WIDER.replace(" 0.99", "").replace(" 0.98", ""),
        f"2\n{CELEBA}\na/1.jpg  {flat(A, '  ')}\nb/2.jpg {flat(B, '   ')}\n",
        f"image_id,{CELEBA.replace(' ', ',')}\na/1.jpg,{flat(A, ',')}\nb/2.jpg,{flat(B, ',')}\n",
    ],
    ids=["retinaface", "wider with scores", "wider", "celeba", "celeba csv"],
)
def test_lists_of_detectors_and_data_sets(tmp_path, content):
    check(read(tmp_path, "label.txt", content))


def test_faces_without_points_are_missing(tmp_path):
    content = RETINAFACE + f"# c/3.jpg\n{BOX} {flat(with_flags(A * 0 - 1, -1))} 0.1\n"
    table = read(tmp_path, "label.txt", content)
    check(table)
    assert table.remarks == ("1 of 3 rows hold no value, first 'c/3.jpg', face 2",)


RECORDS = [{"path": name, "landmarks": points.tolist()} for name, points in zip(NAMES, (A, B), strict=True)]
IMAGES = [{"id": 7, "file_name": "a/1.jpg"}, {"id": 3, "file_name": "b/2.jpg"}]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.json", dict(zip(NAMES, (A.tolist(), B.ravel().tolist()), strict=True))),
        ("a.json", {name: [{"score": 0.9, "landmarks": p.tolist()}] for name, p in zip(NAMES, (A, B), strict=True)}),
        ("a.json", RECORDS),
        ("a.json", [{"image": one["path"], "faces": [{"kps": one["landmarks"]}]} for one in RECORDS]),
        ("a.jsonl", "\n".join(map(json.dumps, RECORDS)) + "\n"),
        ("a.npz", {"names": np.array(NAMES), "landmarks": np.stack([A, B])}),
        ("a.npz", {"paths": np.array(NAMES), "keypoints": np.stack([A, B]).reshape(2, 10).astype(np.float32)}),
    ],
    ids=["dict", "dict of faces", "records", "records of faces", "jsonl", "npz", "npz flat"],
)
def test_json_and_npz(tmp_path, name, content):
    check(read(tmp_path, name, content))


@pytest.mark.parametrize("key", ["keypoints", "face_kpts"])
def test_coco_keypoints(tmp_path, key):
    unseen = [*with_flags(B, 2)[:-1], 0]
    annotations = [
        {"image_id": 3, key: with_flags(B, 2), "bbox": [1, 2, 3, 4]},
        {"image_id": 7, key: with_flags(A, 1)},
        {"image_id": 3, key: unseen},
    ]
    table = read(tmp_path, "coco.json", {"images": IMAGES, "annotations": annotations, "categories": []})
    check(table, (B, A), NAMES[::-1])
    assert table.remarks == ("1 of 3 rows hold no value, first 'b/2.jpg', face 2",)


def test_npy_with_the_list_beside_it_or_a_dict_inside(tmp_path):
    np.save(tmp_path / "a.npy", np.stack([A, B]))
    with pytest.raises(DataError, match=r"put a list of them, one a line, beside it as a\.txt"):
        read_landmarks(tmp_path / "a.npy")
    (tmp_path / "a.txt").write_text("\n".join(NAMES))
    check(read_landmarks(tmp_path / "a.npy"))
    (tmp_path / "a.txt").write_text(NAMES[0])
    with pytest.raises(DataError, match="1 names but 2 rows"):
        read_landmarks(tmp_path / "a.npy")
    np.save(tmp_path / "dict.npy", dict(zip(NAMES, (A, B), strict=True)), allow_pickle=True)
    check(read_landmarks(tmp_path / "dict.npy"))


def dense(count):
    """Return points that tell their number: (n, 100 + n) and the same moved."""
    points = np.stack([np.arange(count), 100 + np.arange(count)], axis=1).astype(float)
    return np.stack([points, points + 0.5])


def written_dense(tmp_path, kind, points):
    path, count = tmp_path / f"dense{kind}", len(points[0])
    titles = ",".join(f"{axis}_{n}" for n in range(count) for axis in "xy")
    rows = list(zip(NAMES, points, strict=True))
    if kind == ".csv":
        path.write_text(f"path,score,{titles}\n" + "".join(f"{name},0.5,{flat(p, ',')}\n" for name, p in rows))
    elif kind == ".txt":
        path.write_text("".join(f"{name} {flat(p)}\n" for name, p in rows))
    elif kind == ".json":
        path.write_text(json.dumps({name: p.tolist() for name, p in rows}))
    elif kind == ".pkl":
        path.write_bytes(pickle.dumps(dict(rows)))
    else:
        np.savez(path, names=np.array(NAMES), landmarks=points)
    return path


@pytest.mark.parametrize("kind", [".csv", ".txt", ".json", ".npz", ".pkl"])
@pytest.mark.parametrize("count", REDUCED)
def test_68_and_98_points_become_five(tmp_path, kind, count):
    expected = np.array([[(n, 100 + n) for n in REDUCED[count]]])
    check(read_landmarks(written_dense(tmp_path, kind, dense(count))), np.concatenate([expected, expected + 0.5]))


@pytest.mark.parametrize("kind", [".csv", ".txt", ".json", ".npz", ".pkl"])
@pytest.mark.parametrize("order", ORDERS)
def test_106_points_become_five_in_the_order_the_user_names(tmp_path, kind, order):
    path = written_dense(tmp_path, kind, dense(106))
    with pytest.raises(
        DataError, match=r"106 points.*landmark_points: insightface_106, jd_106, sensetime_106"
    ) as caught:
        read_landmarks(path)
    assert len(str(caught.value).replace(str(tmp_path), "")) < 300
    expected = np.array([[(n, 100 + n) for n in ORDERS[order]]])
    check(read_landmarks(path, LandmarkForm(landmark_points=order)), np.concatenate([expected, expected + 0.5]))


def test_the_list_of_wflw(tmp_path):
    rows = zip(NAMES, dense(98), strict=True)
    content = "".join(f"{flat(points)} 1 2 3 4 0 0 0 0 0 0 {name}\n" for name, points in rows)
    expected = np.array([[(n, 100 + n) for n in REDUCED[98]]])
    check(read(tmp_path, "list_98pt.txt", content), np.concatenate([expected, expected + 0.5]))


def several(kind):
    """Return a file in which the first image has three faces: small and sure, large, small again."""
    faces = [(SMALL, 0.99), (A, 0.5), (SMALL + 1, 0.7)]
    if kind == "json":
        shown = {NAMES[0]: [{"landmarks": p.tolist(), "score": s} for p, s in faces]}
        return "a.json", shown | {NAMES[1]: {"landmarks": B.tolist(), "score": 0.1}}
    if kind == "npz":
        points, scores = np.stack([*(p for p, _ in faces), B]), np.array([*(s for _, s in faces), 0.1])
        return "a.npz", {"names": np.array([NAMES[0]] * 3 + [NAMES[1]]), "landmarks": points, "scores": scores}
    if kind == "wider":
        lines = "".join(f"{BOX} {s} {flat(p)}\n" for p, s in faces)
        return "a.txt", f"{NAMES[0]}\n3\n{lines}{NAMES[1]}\n1\n{BOX} 0.1 {flat(B)}\n"
    titles = f"path,face,{','.join(HEADER[1:])},detector_score\n"
    rows = [*((NAMES[0], n, p, s) for n, (p, s) in enumerate(faces)), (NAMES[1], 0, B, 0.1)]
    return "a.csv", titles + "".join(f"{name},{n},{flat(p, ',')},{s}\n" for name, n, p, s in rows)


@pytest.mark.parametrize("kind", ["json", "npz", "wider", "csv"])
def test_of_several_faces_the_largest_or_the_best(tmp_path, kind):
    name, content = several(kind)
    with pytest.raises(DataError, match=r"'a/1.jpg' has .* before.*set landmark_faces: largest or best"):
        read(tmp_path, name, content)
    check(read(tmp_path, name, content, LARGEST), (A, B))
    check(read(tmp_path, name, content, BEST), (SMALL, B))


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.json", {"a.jpg": A.tolist()}),
        ("a.csv", f"a.jpg,{flat(A, ',')}\n"),
        ("a.csv", f"{','.join(HEADER)}\na,{flat(A, ',')}\n"),
    ],
)
def test_the_best_face_needs_scores(tmp_path, name, content):
    with pytest.raises(DataError, match="score"):
        read(tmp_path, name, content, BEST)


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("a.json", {"a.jpg": {"landmarks": {"left_eye": [1, 2], "right_eye": [3, 4]}}}, "points by name"),
        ("a.json", {"a.jpg": [[1, 2]] * 17}, "'a.jpg' has no landmarks but"),
        ("a.json", {"a.jpg": {"box": [1, 2, 3, 4]}}, "'a.jpg' has no landmarks but"),
        ("a.json", [{"landmarks": A.tolist()}], "entry 0 is .* without a name"),
        ("a.json", {"a.jpg": [[float("inf"), 2]] * 5}, "not finite"),
        ("a.json", {"a.jpg": {"landmarks": A.tolist(), "score": "high"}}, "score 'high', no number"),
        ("a.json", "[1, 2", "cannot be read as JSON"),
        ("a.json", '{"a.jpg": null, "a.jpg": 1}', "'a.jpg' occurs twice"),
        ("a.json", "7", "holds a int"),
        ("a.json", "{}", "holds no rows"),
        ("a.json", "[" * 100_000, "nested too deep"),
        ("a.json", {"images": IMAGES, "annotations": [{"image_id": 9, "keypoints": []}]}, "annotation 0 names no"),
        ("a.json", {"images": IMAGES, "annotations": [{"keypoints": []}]}, "no COCO keypoints"),
        ("a.npz", {"names": np.array(NAMES), "landmarks": A[None]}, "2 names but landmarks"),
        ("a.npz", {"names": np.array([1, 2]), "landmarks": np.stack([A, B])}, "expected names"),
        ("a.npz", {"names": np.array(NAMES)}, "expected arrays names and landmarks"),
        ("a.txt", f"# a.jpg\n{BOX} 1 2 3\n", "line 2: .* is no face"),
        ("a.txt", f"a.jpg\n2\n{BOX} {flat(A)}\nb.jpg\n", "is no face"),
        ("a.txt", f"a.jpg\n1\n{BOX} {flat(A)}\nb.jpg\nc.jpg\n", "followed by no count of faces"),
    ],
)  # fmt: skip
def test_what_is_no_form_is_refused_in_one_sentence(tmp_path, name, content, said):
    with pytest.raises(DataError, match=said) as caught:
        read(tmp_path, name, content)
    message = str(caught.value)
    assert message.startswith(str(tmp_path / name)) and "\n" not in message
    assert len(message.replace(str(tmp_path), "")) <= 400
