"""A student exported to ONNX, ready to score; the file holds normalisation, network and contract."""

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from model.sharing.files import INPUT, KEY, OUTPUTS, parse_record
from utils.contract import InputContract
from utils.errors import ConfigError, ContractError, WeightsError


def is_onnx(path: str | Path) -> bool:
    """Tell ONNX files by their suffix."""
    return str(path).lower().endswith(".onnx")


class OnnxScorer:
    """Score uint8 crops with a file of export.py; the counterpart of Scorer, in fp32."""

    def __init__(self, content: bytes, path: str | Path, device: torch.device):
        """Take the bytes of the file, its name for messages, and cpu or cuda:N where onnxruntime can use it."""
        try:
            import onnxruntime
        except ImportError as error:
            raise ConfigError(f"{path}: scoring with ONNX needs onnxruntime; run pip install onnxruntime") from error
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        providers, self.device = ["CPUExecutionProvider"], torch.device("cpu")
        if device.type == "cuda" and "CUDAExecutionProvider" in onnxruntime.get_available_providers():
            providers, self.device = [("CUDAExecutionProvider", {"device_id": device.index or 0}), *providers], device
        try:
            self.session = onnxruntime.InferenceSession(content, options, providers=providers)
        except Exception as error:  # onnxruntime raises types of its own
            raise WeightsError(f"{path}: not a readable ONNX file ({' '.join(str(error).split())[:120]})") from error
        record = parse_record(self.session.get_modelmeta().custom_metadata_map.get(KEY), path)
        if record is None:
            raise WeightsError(f"{path}: carries no preprocessing contract; make the file with export.py")
        self.contract = InputContract.from_dict(record["contract"], path)
        fixed = InputContract(self.contract.size_px, self.contract.channels, self.contract.mean, self.contract.std)
        fixed.require(self.contract, path)  # template and landmark order are those of data/alignment.py, no others

    def outputs(self, images_BHW3: Tensor | np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return qualities (B,) and embeddings (B, D), float32, of crops (B, S, S, 3) uint8 RGB."""
        images, size = np.ascontiguousarray(images_BHW3), self.contract.size_px
        if images.dtype != np.uint8 or images.shape[1:] != (size, size, 3):
            raise ContractError(
                f"crops of shape {images.shape} ({images.dtype}) reached a network that takes uint8 crops of "
                f"{size}x{size}x3; align or resize them to {size}x{size}"
            )
        quality_B, embedding_BD = self.session.run(list(OUTPUTS), {INPUT: images})
        return quality_B, embedding_BD

    def __call__(self, images_BHW3: Tensor) -> np.ndarray:
        """Return the qualities (B,) float32, higher = better."""
        return self.outputs(images_BHW3)[0] if len(images_BHW3) else np.zeros(0, np.float32)


def load_onnx_scorer(path: str | Path, device: torch.device, precision: str) -> OnnxScorer:
    """Read an ONNX file for scoring."""
    if not Path(path).is_file():
        raise WeightsError(f"{path}: no such weights file; name it in model.weight")
    if precision != "fp32":
        raise ConfigError(f"base.precision: an ONNX file computes in fp32, not {precision}; set base.precision=fp32")
    return OnnxScorer(Path(path).read_bytes(), path, device)
