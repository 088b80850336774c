"""A real detector file for cv2.FaceDetectorYN: it sees a face wherever an 8x8 cell of the image is bright."""

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

STRIDE_PX = 8
WIDTH_PX, HEIGHT_PX = 24.0, 32.0
POINTS = np.array([[-5, -4], [5, -4], [0, 2], [-4, 8], [4, 8]], np.float64)
"""The landmarks of a face, px from the corner of its cell."""


def write_bright_cell_detector(path: Path) -> Path:
    """Write an ONNX file with YuNet's twelve outputs; only the finest of its three grids ever fires."""
    nodes, constants, outputs = [], [], []
    heads = {
        "cls": (1, [0.0]),
        "obj": (1, [0.0]),
        "bbox": (4, [0.0, 0.0, np.log(WIDTH_PX / STRIDE_PX), np.log(HEIGHT_PX / STRIDE_PX)]),
        "kps": (10, (POINTS / STRIDE_PX).ravel()),
    }
    for stride in (8, 16, 32):
        for head, (channels, bias) in heads.items():
            name = f"{head}_{stride}"
            weight = np.zeros((channels, 3, stride, stride), np.float32)
            if channels == 1 and stride == STRIDE_PX:
                weight[:] = 1 / (255 * weight.size)
            constants += [
                numpy_helper.from_array(weight, f"{name}_weight"),
                numpy_helper.from_array(np.array(bias, np.float32), f"{name}_bias"),
                numpy_helper.from_array(np.array([1, -1, channels], np.int64), f"{name}_shape"),
            ]
            nodes += [
                helper.make_node(
                    "Conv", ["input", f"{name}_weight", f"{name}_bias"], [f"{name}_map"],
                    kernel_shape=[stride] * 2, strides=[stride] * 2,
                ),
                helper.make_node("Transpose", [f"{name}_map"], [f"{name}_last"], perm=[0, 2, 3, 1]),
                helper.make_node("Reshape", [f"{name}_last", f"{name}_shape"], [name]),
            ]  # fmt: skip
            outputs.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, None, channels]))
    image = helper.make_tensor_value_info("input", TensorProto.FLOAT, [1, 3, "height", "width"])
    graph = helper.make_graph(nodes, "bright_cells", [image], outputs, constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    onnx.checker.check_model(model)
    path.write_bytes(model.SerializeToString())
    return path


def face_image(height: int, width: int, *cells: tuple[int, int]) -> np.ndarray:
    """Return a black RGB image with the named cells (column, row) white."""
    image = np.zeros((height, width, 3), np.uint8)
    for column, row in cells:
        image[row * STRIDE_PX : (row + 1) * STRIDE_PX, column * STRIDE_PX : (column + 1) * STRIDE_PX] = 255
    return image
