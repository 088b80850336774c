"""Photographs to scores: inference.py with detection beside one image at a time through onnxruntime, alternating.

    python -m benchmarks.photographs FOLDER DETECTOR.onnx [--images 1000] [--network iresnet18] [--with bf16 onnx int8]
    python -m benchmarks.photographs FOLDER DETECTOR.onnx --model model.yaml --weight student.pth   # a trained student

The first contestant works as a face toolkit such as uniface does: read a photograph, find its faces, align the largest,
run the network's ONNX file on this one crop, go on to the next. Ours is inference.py with `dataset.input=detect`, its
network in torch; `onnx` is the same with the ONNX file. `int8` is a trial: the ONNX file with weights and activations
of 8 bits (onnxruntime's static quantisation, calibrated on aligned crops of every eleventh photograph); inference.py
has no key for it. All find faces with the same YuNet file. Without --weight the network has random weights, which is
enough for times; differences of scores then mean little.
"""

import argparse
import logging
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import onnxruntime
import torch
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
from onnxruntime.quantization.shape_inference import quant_pre_process
from skimage.transform import SimilarityTransform
from torch import nn

from benchmarks.inference import CONFIGS, Ours, write_model
from benchmarks.measuring import Report, alternate, parser
from data.alignment import TEMPLATE_112
from model.registry import NetworkBuilder
from model.sharing.files import describe, to_onnx
from utils.config import load_config
from utils.config.sections import ModelConfig
from utils.contract import InputContract
from utils.rank_correlation import spearman

SUFFIXES = (".jpg", ".jpeg", ".png")
CALIBRATION_STRIDE = 11


class OneAtATime:
    """Score photographs one after the other, with the network's ONNX file."""

    def __init__(self, paths: list[Path], detector: Path, network: Path):
        self.paths = paths
        self.detector = cv2.FaceDetectorYN.create(str(detector), "", (320, 320), 0.6, 0.3, 5000)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        self.session = onnxruntime.InferenceSession(str(network), options, providers=["CPUExecutionProvider"])
        self.input = self.session.get_inputs()[0].name
        self.scores: dict[str, float] = {}

    def __call__(self) -> int:
        """Score all; return how many there are."""
        self.scores = {}
        for path in self.paths:
            crop = self.crop(path)
            if crop is not None:
                outputs = self.session.run(None, {self.input: crop[None]})
                named = dict(zip((one.name for one in self.session.get_outputs()), outputs, strict=True))
                self.scores[path.name] = float(named["quality"].reshape(-1)[0])
        return len(self.paths)

    def crop(self, path: Path) -> np.ndarray | None:
        """Return the aligned crop (112, 112, 3) uint8 RGB of the largest face; None without one."""
        image = cv2.imread(str(path))
        self.detector.setInputSize(image.shape[1::-1])
        _, faces = self.detector.detect(image)
        if faces is None:
            return None
        largest = max(faces, key=lambda face: face[2] * face[3])
        transform = SimilarityTransform.from_estimate(largest[4:14].reshape(5, 2), TEMPLATE_112)
        aligned = cv2.warpAffine(image, transform.params[:2], (112, 112))
        return cv2.cvtColor(aligned, cv2.COLOR_BGR2RGB)


class Crops(CalibrationDataReader):
    """Give onnxruntime crops to find the range of each activation."""

    def __init__(self, works: OneAtATime):
        crops = (works.crop(path) for path in works.paths[::CALIBRATION_STRIDE])
        self.left: Iterator[np.ndarray] = iter([crop for crop in crops if crop is not None])
        self.input = works.input

    def get_next(self) -> dict[str, np.ndarray] | None:
        """Return one more batch of one crop."""
        crop = next(self.left, None)
        return None if crop is None else {self.input: crop[None]}


def take(folder: Path, count: int, place: Path) -> list[Path]:
    """Link so many photographs of a folder, evenly spread over its sorted names, into one."""
    found = sorted(path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES)
    if not found:
        raise SystemExit(f"{folder}: no photograph ({', '.join(SUFFIXES)}) below this folder")
    chosen = found[:: max(1, len(found) // count)][:count]
    place.mkdir()
    for row, path in enumerate(chosen):
        os.symlink(path.resolve(), place / f"{row:06d}{path.suffix}")
    return sorted(place.iterdir())


def prepare_network(folder: Path, options: argparse.Namespace) -> tuple[ModelConfig, nn.Module]:
    """Write model.yaml and student.pth; return the network they make."""
    if options.weight is None:
        return write_model(folder, options.network)
    shutil.copy(options.weight, folder / "student.pth")
    shutil.copy(options.model, folder / "model.yaml")
    model_cfg = load_config(ModelConfig, folder / "model.yaml")
    return model_cfg, NetworkBuilder().trained_student(model_cfg, str(folder / "student.pth")).eval()


def write_int8(folder: Path, works: OneAtATime) -> None:
    """Write the ONNX file with 8-bit weights and activations; its metadata are those of the file it is made from."""
    import onnx

    quant_pre_process(str(folder / "student.onnx"), str(folder / "ready.onnx"), skip_symbolic_shape=True)
    target = folder / "int8.onnx"
    quantize_static(
        str(folder / "ready.onnx"), str(target), Crops(works), quant_format=QuantFormat.QDQ, per_channel=True,
        activation_type=QuantType.QUInt8, weight_type=QuantType.QInt8, op_types_to_quantize=["Conv", "Gemm", "MatMul"],
    )  # fmt: skip
    proto, whole = onnx.load(target), onnx.load(folder / "student.onnx")
    del proto.metadata_props[:]
    proto.metadata_props.extend(whole.metadata_props)
    onnx.save(proto, target)


def main() -> None:
    """Measure and print."""
    options_of = parser(__doc__ or "")
    options_of.add_argument("folder", type=Path, help="photographs")
    options_of.add_argument("detector", type=Path, help="an ONNX file of YuNet")
    options_of.add_argument("--images", type=int, default=1000)
    options_of.add_argument("--network", default="iresnet18", help="iresnet18 ... iresnet200, compact, mobilefacenet")
    options_of.add_argument("--model", type=Path, default=CONFIGS / "model_config.yaml", help="of a trained student")
    options_of.add_argument("--weight", type=Path, help="its weights")
    options_of.add_argument("--with", dest="extra", nargs="*", default=[], choices=("bf16", "onnx", "int8"))
    options = options_of.parse_args()
    logging.disable(logging.WARNING)
    cv2.setNumThreads(torch.get_num_threads())
    report = Report("photographs", options)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        paths = take(options.folder, options.images, folder / "faces")
        model_cfg, student = prepare_network(folder, options)
        contract = InputContract.from_transform(model_cfg.transform, model_cfg.channels)
        record = describe(model_cfg, contract, method="aikd", weights_sha256="")
        (folder / "student.onnx").write_bytes(to_onnx(student, contract, record))
        plain = OneAtATime(paths, options.detector, folder / "student.onnx")
        works: dict[str, OneAtATime | Ours] = {"one image at a time": plain}
        torch_keys = [f"model.config={folder / 'model.yaml'}", f"model.weight={folder / 'student.pth'}"]
        keys = {"": torch_keys, "bf16": [*torch_keys, "base.precision=bf16"]}
        keys |= {"onnx": [f"model.weight={folder / 'student.onnx'}"], "int8": [f"model.weight={folder / 'int8.onnx'}"]}
        if "int8" in options.extra:
            write_int8(folder, plain)
        for name in ("", *options.extra):
            detect = ["dataset.input=detect", f"dataset.detector=yunet:{options.detector}", "output.page=0"]
            place = f"base.save_path={folder / 'out' / (name or 'ours')}"
            works[f"ours, {name}" if name else "ours"] = Ours(folder, "cpu", place, *keys[name], *detect)
        report.compare(alternate(works, options.rounds), "one image at a time")
        wanted = plain.scores
        report.add("photographs with a face", len(wanted))
        report.add("standard deviation of the scores", float(np.std(list(wanted.values()))))
        for name, work in list(works.items())[1:]:
            scores = {Path(name).name: score for name, score in work.scores.items()}
            both = sorted(wanted.keys() & scores.keys())
            found, known = np.array([scores[key] for key in both]), np.array([wanted[key] for key in both])
            report.add(f"{name}: median difference of a score", float(np.median(np.abs(found - known))))
            report.add(f"{name}: Spearman", f"{spearman(found, known):.5f}")


if __name__ == "__main__":
    main()
