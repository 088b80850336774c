"""A frozen network in ONNX: a file of export.py, or any that maps images to embeddings or qualities."""

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from model.frozen.network import Answer, FrozenNetwork, checked_crops, measured, normalise
from model.sharing.files import INPUT, KEY, OUTPUTS, parse_record
from utils.contract import InputContract
from utils.errors import ConfigError, WeightsError
from utils.outside.reading import reading

PIXELS = "tensor(uint8)"


def is_onnx(path: str | Path) -> bool:
    """Tell ONNX files by their suffix."""
    return str(path).lower().endswith(".onnx")


class _Input(NamedTuple):
    """What a network takes."""

    name: str
    shape: list[int | str | None]
    type: str


class OnnxNetwork(FrozenNetwork):
    """Answer with onnxruntime, in fp32.

    A file of export.py holds normalisation, network and contract: uint8 crops in, quality and embedding out. Another
    file is given its contract. It takes (B, 3, S, S) or (B, S, S, 3): floats, which are scaled as the contract says, or
    uint8, which are not. The first output of several numbers per image is the embedding, the first of one number the
    quality, unless `reading` says more.
    """

    def __init__(
        self,
        content: bytes,
        path: str | Path,
        device: torch.device,
        contract: InputContract | None = None,
        assumed: bool = False,
    ):
        """Take the bytes of the file, its name for messages, and cpu or cuda:N where onnxruntime can use it.

        An `assumed` contract gives way to what the file says; another one must agree with it.
        """
        self.name = Path(path).name
        record = parse_record(self._open(content, path, device), path)
        self.describes_itself, entry = record is not None, self._input_of(path)
        if record is not None:
            self.contract = InputContract.from_dict(record["contract"], path)
            own = InputContract(self.contract.size_px, self.contract.channels, self.contract.mean, self.contract.std)
            own.require(self.contract, path)  # template and landmark order are those of data/alignment.py, no others
            if contract is not None and not assumed:
                contract.require(self.contract, path)
        elif contract is None:
            raise WeightsError(
                f"{path}: carries no preprocessing contract; say how crops become its input by preset, or by channels, "
                "mean and std"
            )
        else:
            self.contract = contract
        size = self.contract.size_px
        self.channels_last = _fits(entry.shape, (size, size, 3))
        if not self.channels_last and not _fits(entry.shape, (3, size, size)):
            raise WeightsError(
                f"{path}: takes input of shape {entry.shape}, expected (B, 3, {size}, {size}) or (B, {size}, {size}, 3)"
            )
        if entry.type not in (PIXELS, "tensor(float)"):
            raise WeightsError(f"{path}: takes input of type {entry.type}; known are floats and uint8")
        self.pixels, self.entry = entry.type == PIXELS, entry.name
        self.batch = entry.shape[0] if isinstance(entry.shape[0], int) else None
        self._try(path)

    def _open(self, content: bytes, path: str | Path, device: torch.device) -> str | None:
        """Start the session and return the text of the file's own metadata entry."""
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
        options.log_severity_level = 4  # what fails is raised
        self.bounded = self.device.type == "cpu"  # CUDA maps far more memory than it uses
        with reading(path, "not a readable ONNX file", "export it again", WeightsError, self.bounded):
            self.session = onnxruntime.InferenceSession(content, options, providers=providers)
            if not self.session.get_inputs() or not self.session.get_outputs():
                raise WeightsError(f"{path}: a network without an input or an output; export it again")
            return self.session.get_modelmeta().custom_metadata_map.get(KEY)

    def _input_of(self, path: str | Path) -> "_Input":
        """Return the first input, and keep the outputs' names: they become text when asked for, which may fail."""
        with reading(path, "not a readable ONNX file", "export it again", WeightsError, self.bounded):
            entry = self.session.get_inputs()[0]
            self.output_names = [output.name for output in self.session.get_outputs()]
            return _Input(entry.name, entry.shape, entry.type)

    def _try(self, path: str | Path) -> None:
        """Answer one black image: a network that cannot, or only with endless memory, is refused before any work."""
        side = self.contract.size_px
        shape = (side, side, 3) if self.channels_last else (3, side, side)
        image = np.zeros((self.batch or 1, *shape), np.uint8 if self.pixels else np.float32)
        with reading(path, "fails on an image", "export it again", WeightsError, self.bounded):
            self.session.run(None, {self.entry: image})

    def run(self, images_BHW3: Tensor) -> Answer:
        """Compute the answer to a batch; a model of fixed batch size gets batches filled up with zeros."""
        if self.describes_itself:
            crops = checked_crops(images_BHW3, self.contract).contiguous().numpy()
            quality_B, embedding_BD = map(np.asarray, self.session.run(list(OUTPUTS), {INPUT: crops}))
            return self._answer([torch.from_numpy(embedding_BD)], torch.from_numpy(quality_B))
        parts = [self.session.run(None, {self.entry: batch}) for batch in self._batches(self._input(images_BHW3))]
        whole = (np.concatenate([np.asarray(part) for part in output]) for output in zip(*parts, strict=True))
        outputs = [torch.from_numpy(output)[: len(images_BHW3)].float() for output in whole]
        if self.reading.output is not None:
            return self._answer([outputs[self._number()]], None)
        single = [output for output in outputs if output.numel() == len(output)]
        return self._answer([output for output in outputs if output.dim() == 2 and output.shape[1] > 1], *single[:1])

    def _answer(self, embeddings: list[Tensor], quality_B: Tensor | None = None) -> Answer:
        """Put together what `reading` asks for."""
        first = embeddings[0] if embeddings else None
        if first is None:
            first = torch.zeros(len(quality_B) if quality_B is not None else 0, 0)
        if self.reading.quality == "length" or (self.reading.quality == "output" and quality_B is None):
            quality_B = measured(first, self.reading, self.name)
        if first.dim() != 2 or first.shape[1] == 1:  # the named output is a quality
            quality_B, first = first, first.new_zeros(len(first), 0)
        return Answer(first, None if quality_B is None else quality_B.flatten(), {})

    def _number(self) -> int:
        """Return the number of the output that `reading` names."""
        names, wanted = self.output_names, self.reading.output
        if isinstance(wanted, str) and wanted in names:
            return names.index(wanted)
        if isinstance(wanted, int) and 0 <= wanted < len(names):
            return wanted
        raise ConfigError(f"{self.name}: has no output {wanted!r}; it has {', '.join(names)}")

    def _input(self, images_BHW3: Tensor) -> np.ndarray:
        if self.pixels:
            crops = checked_crops(images_BHW3, self.contract)
            x_BCHW = (crops.flip(-1) if self.contract.channels == "BGR" else crops).permute(0, 3, 1, 2)
        else:
            x_BCHW = normalise(images_BHW3, self.contract, "cpu")
        x = x_BCHW.permute(0, 2, 3, 1) if self.channels_last else x_BCHW
        return x.contiguous(memory_format=torch.contiguous_format).numpy()

    def _batches(self, x: np.ndarray) -> Iterator[np.ndarray]:
        size = self.batch or len(x)
        for start in range(0, len(x), size):
            part = x[start : start + size]
            yield np.concatenate([part, np.zeros((size - len(part), *part.shape[1:]), part.dtype)])


def _fits(shape: list, wanted: tuple[int, ...]) -> bool:
    """Tell whether an input of this shape takes images of the wanted one; sizes may be left open."""
    return len(shape) == 4 and all(
        not isinstance(have, int) or have == want for have, want in zip(shape[1:], wanted, strict=True)
    )
