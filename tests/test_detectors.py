"""data/detectors: rows become faces, which of them count, what is refused, and the same faces from every detector."""

import pickle
import sys
from pathlib import Path

import cv2
import numpy as np
import onnx
import pytest
from onnx import helper

from data.detectors.base import Face, FaceFinder, faces_of
from data.detectors.registry import open_finder
from data.detectors.yunet import YuNetDetector, face_rows
from data.images.decode import ImageError
from tests.helpers.detector import HEIGHT_PX, POINTS, STRIDE_PX, WIDTH_PX, face_image, write_bright_cell_detector
from utils.allowed import NOTHING_MORE, AllowedModules
from utils.config.sections import DetectionConfig, YuNetOptions
from utils.errors import ConfigError, DataError

REAL = Path(__file__).resolve().parents[2] / "shared/models/face_detection_yunet_2026may.onnx"

# Rows in the detector's form, as cv2.FaceDetectorYN returns them: box, subject's right eye, left eye, nose tip,
# right mouth corner, left mouth corner, score.
RECORDED = np.array(
    [
        [86.2, 54.1, 61.5, 79.8, 102.6, 85.3, 131.1, 84.9, 117.4, 101.2, 106.0, 117.7, 129.3, 117.5, 0.93],
        [10.0, 20.0, 90.0, 110.0, 31.5, 62.5, 71.0, 61.0, 50.5, 85.0, 36.0, 108.5, 68.0, 107.5, 0.71],
        [12.0, 20.0, 110.0, 90.0, 33.5, 62.5, 73.0, 61.0, 52.5, 85.0, 38.0, 108.5, 70.0, 107.5, 0.72],
    ],
    np.float32,
)
IMAGE = np.zeros((200, 240, 3), np.uint8)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return write_bright_cell_detector(tmp_path_factory.mktemp("detector") / "bright.onnx")


def detector(model, **options):
    return YuNetDetector(str(model), YuNetOptions(**options))


def at(cell):
    """Return the landmarks that the detector finds for a bright cell (column, row)."""
    return POINTS + np.array(cell) * STRIDE_PX


def finder(rows, which="largest", min_face_px=0):
    return FaceFinder(lambda image: faces_of(face_rows(rows)), which, min_face_px)


def test_recorded_rows_give_points_in_template_order():
    (face,) = faces_of(face_rows(RECORDED[:1]))
    assert face.points.dtype == np.float32
    assert face.points.tolist() == RECORDED[0, 4:14].reshape(5, 2).tolist()
    left_eye, right_eye, nose, left_mouth, right_mouth = face.points
    assert left_eye[0] < nose[0] < right_eye[0] and left_mouth[0] < right_mouth[0] and left_eye[1] < left_mouth[1]
    assert face.area_px == pytest.approx(61.5 * 79.8) and face.score == pytest.approx(0.93)
    assert face.box.tolist() == RECORDED[0, :4].tolist()
    assert [np.array_equal(a, b) for a, b in zip(Face.of(face.numbers()), face, strict=True)] == [True] * 3


def test_the_largest_face_wins_and_at_a_tie_the_surer_one():
    scores = [finder(rows)(IMAGE)[0].score for rows in (RECORDED[:2], RECORDED, RECORDED[::-1])]
    assert scores == pytest.approx([0.71, 0.72, 0.72])
    assert [face.score for face in finder(RECORDED, "all")(IMAGE)] == pytest.approx([0.72, 0.71, 0.93])


def test_the_central_face_is_the_one_closest_to_the_middle():
    # centres (116.95, 94), (55, 75), (67, 65); the middles of the two images (120, 100) and (60, 70)
    assert finder(RECORDED, "central")(IMAGE)[0].score == pytest.approx(0.93)
    assert finder(RECORDED, "central")(IMAGE[:140, :120])[0].score == pytest.approx(0.71)


def test_small_faces_do_not_count():
    assert [face.score for face in finder(RECORDED, "all", 62)(IMAGE)] == pytest.approx([0.72, 0.71])
    with pytest.raises(ImageError, match=r"^no face of 91 px or more found, the largest has 90$"):
        finder(RECORDED, "all", 91)(IMAGE)
    with pytest.raises(ImageError, match=r"^no face found$"):
        finder(RECORDED[:0], "all", 91)(IMAGE)


def test_rows_that_are_no_faces_are_passed_over():
    bad = RECORDED.copy()
    bad[1, 7], bad[2, 2] = np.nan, 0
    assert [face.score for face in faces_of(face_rows(bad))] == pytest.approx([0.93])
    assert faces_of(face_rows(bad[1:])) == []
    with pytest.raises(ValueError, match="15 numbers"):
        face_rows(RECORDED[:, :14])


def test_a_real_detector_file_runs(model):
    (face,) = detector(model)(face_image(64, 96, (4, 3)))
    assert np.allclose(face.points, at((4, 3)), atol=1e-3)
    assert face.area_px == pytest.approx(WIDTH_PX * HEIGHT_PX, rel=1e-4)
    assert detector(model)(face_image(64, 64)) == []


def test_a_large_image_is_shrunk_and_its_landmarks_are_not(model):
    image = cv2.resize(face_image(64, 96, (4, 3)), None, fx=4, fy=4, interpolation=cv2.INTER_NEAREST)
    (face,) = detector(model, max_side_px=96)(image)
    expected = (at((4, 3)) + 0.5) * 4 - 0.5  # pixel centres at integers
    assert np.allclose(face.points, expected, atol=5e-3)
    assert face.area_px == pytest.approx(16 * WIDTH_PX * HEIGHT_PX, rel=1e-3)


def test_a_border_moves_nothing(model):
    plain = detector(model)(face_image(64, 96, (4, 3)))[0]
    (face,) = detector(model, border=0.25)(face_image(64, 96, (4, 3)))  # 24 px, three cells
    assert np.allclose(face.points, at((4, 3)), atol=1e-3) and np.allclose(face.box, plain.box, atol=1e-3)


def test_channels_reach_the_detector_as_blue_green_red(model):
    seen = []

    class Net:
        def setInputSize(self, size):
            seen.append(size)

        def detect(self, image):
            seen.append(image)
            return 1, None

    watched = detector(model)
    watched._thread.net = Net()
    image = np.zeros((5, 7, 3), np.uint8)
    image[..., 0] = 200
    assert watched(image) == []
    assert seen[0] == (7, 5) and seen[1][0, 0].tolist() == [0, 0, 200]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "cannot be read (No such file or directory); download face_detection_yunet_2026may.onnx (OpenCV 5)"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "is a git-lfs pointer"),
        (b"garbage", "OpenCV cannot load it as a YuNet model"),
    ],
)
def test_a_file_that_is_no_detector_is_named(tmp_path, content, said):
    path = tmp_path / "yunet.onnx"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(DataError) as caught:
        detector(path)
    assert str(caught.value).startswith(f"{path}: ") and said in str(caught.value) and "\n" not in str(caught.value)


def test_a_network_of_another_kind_is_refused_before_any_image(tmp_path):
    graph = helper.make_graph(
        [helper.make_node("Identity", ["x"], ["y"])],
        "other",
        [helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [1, 3, 112, 112])],
        [helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, [1, 3, 112, 112])],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8), tmp_path / "x.onnx")
    with pytest.raises(DataError, match=r"x\.onnx: is no YuNet file that OpenCV .* runs, .*; use face_detection_yunet"):
        detector(tmp_path / "x.onnx")


def test_a_pickled_detector_finds_the_same(model):
    image = face_image(64, 96, (4, 3))
    first = detector(model)
    again = pickle.loads(pickle.dumps(first))
    assert again.identity == first.identity
    assert np.array_equal(again(image)[0].numbers(), first(image)[0].numbers())


# ---- which detector is meant

PLUGIN = """
import numpy as np
POINTS = np.array([[38, 51], [73, 51], [56, 71], [41, 92], [70, 92]], float)
def find(image):
    height, width = image.shape[:2]
    return [((0, 0, width, height), POINTS + image[0, 0, 0], 0.5)]
class Finder:
    def __call__(self, image):
        return find(image) if image.any() else [((0, 0, 5, 5), POINTS[:4], 1)]
"""


@pytest.fixture
def plugin(tmp_path, monkeypatch):
    (tmp_path / "my_faces.py").write_text(PLUGIN)
    monkeypatch.syspath_prepend(str(tmp_path))
    yield AllowedModules(("my_faces",))
    sys.modules.pop("my_faces", None)


def test_a_function_or_class_of_the_users_is_a_detector(plugin):
    image = np.full((20, 30, 3), 7, np.uint8)
    for name in ("my_faces.find", "my_faces.Finder"):
        (face,) = open_finder(DetectionConfig(detector=name), plugin)(image)
        assert face.box.tolist() == [0, 0, 30, 20] and face.score == 0.5
        assert face.points.tolist() == [[45, 58], [80, 58], [63, 78], [48, 99], [77, 99]]
    with pytest.raises(ImageError, match=r"my_faces.Finder failed \(ValueError: expected a box of 4 numbers and 5"):
        open_finder(DetectionConfig(detector="my_faces.Finder"), plugin)(IMAGE)


@pytest.mark.parametrize("name", ["os.system", "my_faces.find", "retina", "yunet", "x.pb"])
def test_a_configuration_can_name_no_other_code(name):
    with pytest.raises(ConfigError, match=rf"^dataset.detector: '{name}' is no detector; expected yunet:FILE"):
        open_finder(DetectionConfig(detector=name), NOTHING_MORE)


def test_a_scheme_without_a_name_is_refused():
    with pytest.raises(ValueError, match="yunet: names nothing; expected yunet:FILE"):
        DetectionConfig(detector="yunet:")


def test_files_may_lie_in_the_home_folder(monkeypatch):
    monkeypatch.setenv("HOME", "/h")
    assert DetectionConfig(detector="yunet:~/y.onnx").detector == "yunet:/h/y.onnx"


@pytest.mark.skipif(not REAL.is_file(), reason="the published detector is not here")
def test_opencv_says_nothing_of_the_published_detector(capfd):
    detector(REAL)(IMAGE)
    assert capfd.readouterr() == ("", "")
