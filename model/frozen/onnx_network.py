"""A frozen network in ONNX: a file of export.py, or any that maps (B, 3, S, S) to embeddings."""

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from model.frozen.network import Answer, FrozenNetwork, checked_crops, normalise
from model.sharing.files import INPUT, KEY, OUTPUTS, parse_record
from utils.contract import InputContract
from utils.errors import ConfigError, WeightsError


def is_onnx(path: str | Path) -> bool:
    """Tell ONNX files by their suffix."""
    return str(path).lower().endswith(".onnx")


class OnnxNetwork(FrozenNetwork):
    """Answer with onnxruntime, in fp32.

    A file of export.py holds normalisation, network and contract: uint8 crops in, quality and embedding out. Another
    file is given its contract; its first output is the embedding.
    """

    def __init__(self, content: bytes, path: str | Path, device: torch.device, contract: InputContract | None = None):
        """Take the bytes of the file, its name for messages, and cpu or cuda:N where onnxruntime can use it."""
        try:
            import onnxruntime
        except ImportError as error:
            raise ConfigError(f"{path}: an ONNX file needs onnxruntime; run pip install onnxruntime") from error
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        providers, self.device = ["CPUExecutionProvider"], torch.device("cpu")
        if device.type == "cuda" and "CUDAExecutionProvider" in onnxruntime.get_available_providers():
            providers, self.device = [("CUDAExecutionProvider", {"device_id": device.index or 0}), *providers], device
        elif device.type == "cuda":
            self.remark = f"onnxruntime has no CUDA here; {path} computes on the CPU"
        try:
            self.session = onnxruntime.InferenceSession(content, options, providers=providers)
        except Exception as error:  # onnxruntime raises types of its own
            raise WeightsError(f"{path}: not a readable ONNX file ({' '.join(str(error).split())[:120]})") from error
        self.name, entry = Path(path).name, self.session.get_inputs()[0]
        record = parse_record(self.session.get_modelmeta().custom_metadata_map.get(KEY), path)
        self.describes_itself = record is not None
        if record is not None:
            self.contract = InputContract.from_dict(record["contract"], path)
            own = InputContract(self.contract.size_px, self.contract.channels, self.contract.mean, self.contract.std)
            own.require(self.contract, path)  # template and landmark order are those of data/alignment.py, no others
        elif contract is None:
            raise WeightsError(f"{path}: carries no preprocessing contract; make the file with export.py")
        else:
            self.contract, wanted = contract, (3, contract.size_px, contract.size_px)
            fits = len(entry.shape) == 4 and all(
                not isinstance(have, int) or have == want for have, want in zip(entry.shape[1:], wanted, strict=True)
            )
            if not fits:
                size = contract.size_px
                raise WeightsError(f"{path}: takes input of shape {entry.shape}, expected (B, 3, {size}, {size})")
        self.entry = entry.name
        self.batch = entry.shape[0] if isinstance(entry.shape[0], int) else None

    def run(self, images_BHW3: Tensor) -> Answer:
        """Compute the answer to a batch; a model of fixed batch size gets batches filled up with zeros."""
        if self.describes_itself:
            crops = checked_crops(images_BHW3, self.contract).contiguous().numpy()
            quality_B, embedding_BD = map(np.asarray, self.session.run(list(OUTPUTS), {INPUT: crops}))
            return Answer(torch.from_numpy(embedding_BD), torch.from_numpy(quality_B), {})
        x_BCHW = normalise(images_BHW3, self.contract, "cpu").contiguous(memory_format=torch.contiguous_format).numpy()
        size, outputs = self.batch or len(x_BCHW), []
        for start in range(0, len(x_BCHW), size):
            part = x_BCHW[start : start + size]
            full = np.concatenate([part, np.zeros((size - len(part), *part.shape[1:]), np.float32)])
            outputs.append(np.asarray(self.session.run(None, {self.entry: full})[0])[: len(part)])
        return Answer(torch.from_numpy(np.concatenate(outputs)), None, {})
