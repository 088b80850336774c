"""data/detectors/uniface.py with the package itself: a tiny network in SCRFD's form lies where it keeps weights."""

import dataclasses
import hashlib
import importlib.metadata
import pickle
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from data.detectors.registry import open_finder
from data.images.decode import ImageError
from utils.allowed import NOTHING_MORE
from utils.config.sections import DetectionConfig
from utils.errors import DataError

constants = pytest.importorskip("uniface.constants", reason="the optional package uniface is not installed")

SIDE_PX, STRIDE_PX = 640, 8
BOX = np.array([-16.0, -24.0, 48.0, 56.0])
"""x1, y1, x2, y2 of the face of a cell, from its upper left corner."""
POINTS = np.array([[4.0, 0.0], [28.0, 1.0], [16.0, 12.0], [6.0, 30.0], [26.0, 31.0]])


def scrfd_bytes() -> bytes:
    """Return a network that finds a face where a cell of 8 px is bright in the first channel it is given.

    As SCRFD's, it has nine outputs, for the strides 8, 16 and 32: scores, distances to the box, to the landmarks.
    """
    constants = {
        "kernel": np.concatenate([np.full((1, 1, 8, 8), 1 / 64), np.zeros((1, 2, 8, 8))], 1).astype(np.float32),
        "half": np.array(0.5, np.float32),
        "none": np.zeros((1, 1, 80, 80), np.float32),
        "column": np.array([-1, 1], np.int64),
    }
    nodes = [
        helper.make_node("Conv", ["image", "kernel"], ["bright"], strides=[STRIDE_PX] * 2),
        helper.make_node("Mul", ["bright", "half"], ["halved"]),
        helper.make_node("Add", ["halved", "half"], ["share"]),
        helper.make_node("Concat", ["share", "none"], ["anchors"], axis=1),  # two anchors a cell
        helper.make_node("Transpose", ["anchors"], ["ordered"], perm=[0, 2, 3, 1]),
        helper.make_node("Reshape", ["ordered", "column"], ["score8"]),
    ]
    rows = {"box": np.abs(BOX), "points": POINTS.ravel()}
    for stride in (8, 16, 32):
        count = 2 * (SIDE_PX // stride) ** 2
        for name, row in {**rows, **({"score": np.zeros(1)} if stride > 8 else {})}.items():
            constants[f"row_{name}{stride}"] = (row[None] / stride).astype(np.float32)
            constants[f"shape_{name}{stride}"] = np.array([count, len(row)], np.int64)
            nodes.append(
                helper.make_node("Expand", [f"row_{name}{stride}", f"shape_{name}{stride}"], [f"{name}{stride}"])
            )
    graph = helper.make_graph(
        nodes, "scrfd",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, [1, 3, SIDE_PX, SIDE_PX])],
        [
            helper.make_tensor_value_info(f"{name}{stride}", TensorProto.FLOAT, None)
            for name in ("score", "box", "points") for stride in (8, 16, 32)
        ],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )  # fmt: skip
    opset = [helper.make_opsetid("", 13)]
    return onnx.helper.make_model(graph, opset_imports=opset, ir_version=8).SerializeToString()


def expect(content: bytes, folder: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Put a file where uniface keeps weights, and have its checksum expected; return the name of the detector."""
    which, registry = constants.SCRFDWeights.SCRFD_500M_KPS, constants.MODEL_REGISTRY
    (folder / f"{which.value}.onnx").write_bytes(content)
    known = dataclasses.replace(registry[which], sha256=hashlib.sha256(content).hexdigest())
    monkeypatch.setitem(registry, which, known)
    monkeypatch.setenv("UNIFACE_CACHE_DIR", str(folder))
    return f"uniface:{which.value}"


@pytest.fixture
def weights(tmp_path, monkeypatch):
    return expect(scrfd_bytes(), tmp_path, monkeypatch)


def with_cell(side: int, size: int, column: int, row: int, channel: int = 2) -> np.ndarray:
    """Return a dark RGB image with one bright cell."""
    image = np.zeros((side, side, 3), np.uint8)
    image[row * size : (row + 1) * size, column * size : (column + 1) * size, channel] = 255
    return image


def test_faces_of_uniface_are_faces_of_ours(weights):
    find = open_finder(DetectionConfig(detector=weights), NOTHING_MORE)
    corner = np.array([30, 20]) * STRIDE_PX
    (face,) = find(with_cell(SIDE_PX, STRIDE_PX, 30, 20))
    assert np.allclose(face.points, POINTS + corner, atol=1e-3) and face.points.dtype == np.float32
    assert np.allclose(face.box, [*(BOX[:2] + corner), *(BOX[2:] - BOX[:2])], atol=1e-3)
    assert face.score == pytest.approx(1, abs=1e-5)
    (again,) = pickle.loads(pickle.dumps(find))(with_cell(2 * SIDE_PX, 2 * STRIDE_PX, 30, 20))  # shrunk to half
    assert np.allclose(again.points, 2 * face.points, atol=1e-3) and np.allclose(again.box, 2 * face.box, atol=1e-3)


def test_channels_reach_uniface_as_blue_green_red(weights):
    find = open_finder(DetectionConfig(detector=weights), NOTHING_MORE)
    with pytest.raises(ImageError, match=r"^no face found$"):
        find(with_cell(SIDE_PX, STRIDE_PX, 30, 20, channel=0))


def test_detectors_and_weights_are_known_by_name(weights):
    identity = open_finder(DetectionConfig(detector="uniface:SCRFD_500m"), NOTHING_MORE).identity
    assert identity["version"] == importlib.metadata.version("uniface")
    with pytest.raises(DataError, match=r"no detector of uniface with 5 landmarks; known: .*scrfd.*retinaface_mnet_v2"):
        open_finder(DetectionConfig(detector="uniface:blazeface"), NOTHING_MORE)


def test_weights_that_cannot_be_loaded_are_one_sentence(tmp_path, monkeypatch):
    name = expect(b"no network", tmp_path, monkeypatch)
    with pytest.raises(DataError, match=r"^uniface:scrfd_500m: cannot be loaded \(") as caught:
        open_finder(DetectionConfig(detector=name), NOTHING_MORE)
    assert "\n" not in str(caught.value)
