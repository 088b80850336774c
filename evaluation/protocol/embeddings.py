"""Recognition embeddings: read from a file, or computed by a network; and the cosine of two of them."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor

from data.tables.names import Names
from model.frozen.preprocess import normalise
from model.label_sources import FrozenNetwork
from model.registry import pretrained_backbone
from utils.config.evaluate import RecognitionConfig
from utils.config.sections import NetworkConfig
from utils.contract import InputContract
from utils.errors import ConfigError, DataError, WeightsError
from utils.files import atomic_write, sha256_file

_CHUNK = 65_536
"""Pairs whose embeddings are held at a time."""


class ImageModel(Protocol):
    """Anything that turns crops into numbers, one row per image."""

    fingerprint: dict[str, Any]
    """JSON values; what is equal here gives equal numbers."""
    reason: str | None
    """Why `finish` may give NaN for an image, in a few words."""

    def __call__(self, images_BHW3: Tensor, names: Sequence[str]) -> np.ndarray:
        """Return (B,) scores or (B, D) embeddings of uint8 RGB crops."""

    def finish(self, values: np.ndarray, names: Sequence[str]) -> np.ndarray:
        """Turn the rows of all images into the result, which may depend on all of them."""


class Embeddings(NamedTuple):
    """Names and their embeddings (N, D) float32, as the model gave them."""

    names: Names
    values: np.ndarray


def read_embeddings(path: str | Path) -> Embeddings:
    """Read a .npz with arrays `names` (N,) of text and `embeddings` (N, D)."""
    try:
        with np.load(path, allow_pickle=False) as archive:
            missing = [key for key in ("names", "embeddings") if key not in archive]
            if missing:
                raise DataError(f"{path}: holds no array {missing[0]!r} but {', '.join(archive.files) or 'nothing'}")
            names, values = archive["names"], archive["embeddings"]
    except DataError:
        raise
    except Exception as error:  # a damaged archive fails in any way
        reason = " ".join(str(error).split())[:120]
        raise DataError(
            f"{path}: not a readable .npz of plain arrays ({reason}); save names as text, not objects"
        ) from error
    if names.ndim != 1 or names.dtype.kind not in "US" or values.ndim != 2 or values.dtype.kind != "f":
        raise DataError(
            f"{path}: expected names (N,) of text and embeddings (N, D) of floats, "
            f"found {names.dtype} {names.shape} and {values.dtype} {values.shape}"
        )
    if len(names) != len(values):
        raise DataError(f"{path}: {len(names)} names but {len(values)} embeddings; one name per embedding")
    return Embeddings(Names.from_strings(names.tolist()), values.astype(np.float32, copy=False))


def write_embeddings(path: str | Path, names: Sequence[str], values: np.ndarray) -> None:
    """Write embeddings as read_embeddings reads them."""
    with atomic_write(path) as stream:
        np.savez(stream, names=np.array(list(names), dtype=str), embeddings=values.astype(np.float32, copy=False))


def unit_rows(values: np.ndarray, names: Sequence[str], rows: np.ndarray) -> np.ndarray:
    """Scale embeddings (N, D) to length 1; DataError naming the first of `rows` that has no direction."""
    length = np.sqrt(np.einsum("nd,nd->n", values, values, dtype=np.float64))
    bad = rows[~(np.isfinite(length[rows]) & (length[rows] > 0))]
    if len(bad):
        raise DataError(f"the embedding of {names[bad[0]]!r} is zero or not finite ({len(bad)} such); compute it again")
    with np.errstate(invalid="ignore", divide="ignore"):
        return (values / length[:, None]).astype(np.float32)


def cosines(unit_ND: np.ndarray, first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Return the cosine similarity of each pair, (P,) float64, from embeddings of length 1."""
    similarity = np.empty(len(first), dtype=np.float64)
    for start in range(0, len(first), _CHUNK):
        part = slice(start, start + _CHUNK)
        similarity[part] = np.einsum("pd,pd->p", unit_ND[first[part]], unit_ND[second[part]], dtype=np.float64)
    return similarity


class Recogniser:
    """Embed crops with a backbone or an ONNX file, 112x112, (pixel / 255 - 0.5) / 0.5, in the stated channel order."""

    reason = None

    def __init__(self, cfg: RecognitionConfig, device: torch.device, allow_modules: Sequence[str] = ()):
        self.flip = cfg.flip
        contract = InputContract(channels=cfg.channels)
        if cfg.weights.lower().endswith(".onnx"):
            self.network = OnnxNetwork(cfg.weights, contract)
        else:
            spec = NetworkConfig(module=cfg.module, params=cfg.params, weights=cfg.weights)
            self.network = FrozenNetwork(pretrained_backbone(spec, allow_modules), contract, device)
        keys = {"module", "params", "channels", "flip"}
        self.fingerprint = {**cfg.model_dump(mode="json", include=keys), "weights": sha256_file(cfg.weights)}

    @torch.inference_mode()
    def __call__(self, images_BHW3: Tensor, names: Sequence[str]) -> np.ndarray:
        """Return the embeddings (B, D) float32; with `flip` the sum of those of the crop and its mirror image."""
        embedding = self._embed(images_BHW3)
        return embedding + self._embed(images_BHW3.flip(2)) if self.flip else embedding

    def finish(self, values: np.ndarray, names: Sequence[str]) -> np.ndarray:
        """Return the values: an embedding depends on no other image."""
        return values

    def _embed(self, images_BHW3: Tensor) -> np.ndarray:
        embedding = self.network.embed(self.network.prepare(images_BHW3))
        return embedding.cpu().numpy() if isinstance(embedding, Tensor) else embedding


class OnnxNetwork:
    """Run an ONNX file whose first input is (B, 3, 112, 112) and whose first output is (B, D)."""

    def __init__(self, path: str, contract: InputContract):
        try:
            import onnxruntime
        except ImportError as error:
            raise ConfigError(f"{path}: an ONNX file needs onnxruntime; run pip install onnxruntime") from error
        if not Path(path).is_file():
            raise WeightsError(f"{path}: no such weights file; check the path")
        try:
            self.session = onnxruntime.InferenceSession(path, providers=onnxruntime.get_available_providers())
        except Exception as error:  # onnxruntime raises types of its own
            raise WeightsError(f"{path}: not a readable ONNX file ({' '.join(str(error).split())[:120]})") from error
        entry = self.session.get_inputs()[0]
        size = contract.size_px
        if len(entry.shape) != 4 or any(
            isinstance(n, int) and n != w for n, w in zip(entry.shape[1:], (3, size, size))
        ):
            raise WeightsError(f"{path}: takes input of shape {entry.shape}, expected (B, 3, {size}, {size})")
        self.contract, self.entry = contract, entry.name
        self.batch = entry.shape[0] if isinstance(entry.shape[0], int) else None

    def prepare(self, images_BHW3: Tensor) -> np.ndarray:
        """Turn uint8 crops into network input."""
        return normalise(images_BHW3, self.contract, "cpu").contiguous(memory_format=torch.contiguous_format).numpy()

    def embed(self, x_BCHW: np.ndarray) -> np.ndarray:
        """Return the first output; a model of fixed batch size gets batches filled up with zeros."""
        if self.batch is None:
            return self.session.run(None, {self.entry: x_BCHW})[0]
        outputs = []
        for start in range(0, len(x_BCHW), self.batch):
            part = x_BCHW[start : start + self.batch]
            full = np.zeros((self.batch, *part.shape[1:]), dtype=np.float32)
            full[: len(part)] = part
            outputs.append(self.session.run(None, {self.entry: full})[0][: len(part)])
        return np.concatenate(outputs)
