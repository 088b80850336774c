"""Recognition embeddings: read from a file, or computed by a network; and the cosine of two of them."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
from torch import Tensor

from data.tables.forms.vectors import read_vectors
from data.tables.names import Names
from evaluation.protocol.views import Averaging
from model.frozen.describe import Described
from model.frozen.load import NetworkLoader, NetworkSpec
from model.frozen.network import FrozenNetwork
from utils.config.evaluate import RecogniserConfig
from utils.config.sections import ModelConfig, NetworkConfig
from utils.contract import InputContract
from utils.errors import DataError
from utils.files import atomic_write
from utils.present import present

_CHUNK = 65_536
"""Pairs whose embeddings are held at a time."""


class ImageModel(Protocol):
    """Anything that turns crops into numbers, one row per image."""

    @property
    def fingerprint(self) -> dict[str, Any]:
        """Return JSON values; what is equal here gives equal numbers."""
        ...

    @property
    def reason(self) -> str | None:
        """Return why `finish` may give NaN for an image, in a few words."""
        ...

    @property
    def averaging(self) -> Averaging | None:
        """Return over which looks at each face its numbers are averaged; None: one look."""
        ...

    def __call__(self, images_BHW3: Tensor, names: Sequence[str]) -> np.ndarray:
        """Return (B,) scores or (B, D) embeddings of uint8 RGB crops."""
        ...
        raise NotImplementedError

    def finish(self, values: np.ndarray, names: Sequence[str]) -> np.ndarray:
        """Turn the rows of all images into the result, which may depend on all of them."""
        ...
        raise NotImplementedError


class Embeddings(NamedTuple):
    """Names and their embeddings (N, D) float32, as the model gave them."""

    names: Names
    values: np.ndarray


def read_embeddings(path: str | Path) -> Embeddings:
    """Read a .npz with arrays `names` and `embeddings`, or another form of docs/formats.md."""
    return Embeddings(*read_vectors(Path(path)))


def write_embeddings(path: str | Path, names: Sequence[str], values: np.ndarray) -> None:
    """Write embeddings as read_embeddings reads them."""
    with atomic_write(path) as stream:
        np.savez(stream, names=np.array(list(names), dtype=str), embeddings=values.astype(np.float32, copy=False))


def unit_rows(values: np.ndarray, names: Names | Sequence[str], rows: np.ndarray) -> np.ndarray:
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
    """Embed crops with a backbone or an ONNX file; where nothing says how it is fed, as the official networks are."""

    reason: str | None = None
    averaging: Averaging | None = None

    def __init__(self, cfg: RecogniserConfig, precision: str = "fp32"):
        """Describe the model; `precision` where its section names none."""
        self.flip, self.spec = cfg.flip, _spec(cfg, cfg.precision or precision)

    def load(self, loader: NetworkLoader) -> None:
        """Load the network."""
        self.network = loader.load(self.spec)
        self.fingerprint = {"flip": self.flip, **fingerprint(self.spec, self.network)}
        self.remarks = [self.network.remark]

    def __call__(self, images_BHW3: Tensor, names: Sequence[str]) -> np.ndarray:
        """Return the embeddings (B, D) float32; with `flip` the sum of those of the crop and its mirror image."""
        embedding_BD = self.network.embeddings(images_BHW3)
        if self.flip:  # not remembered: other methods go on with the crops themselves
            embedding_BD = embedding_BD + present(self.network.run(images_BHW3.flip(2)).embedding).cpu().numpy()
        return embedding_BD

    def finish(self, values: np.ndarray, names: Sequence[str]) -> np.ndarray:
        """Return the values: an embedding depends on no other image."""
        return values


def fingerprint(spec: NetworkSpec, network: FrozenNetwork) -> dict[str, Any]:
    """Return what decides a network's numbers; it was loaded as `spec` says."""
    return {
        "network": spec.facts(),
        "contract": spec.contract and spec.contract.to_dict(),
        "weights": network.weights_sha256,
        "precision": "bf16; on a CPU the network itself" if spec.precision == "bf16" else spec.precision,
    }


def _spec(cfg: RecogniserConfig, precision: str) -> NetworkSpec:
    """Describe the network of a recognition model."""
    model = None
    if cfg.module is not None:
        model = ModelConfig(features=NetworkConfig(module=cfg.module, params=cfg.params, weights=None))
    return Described(cfg.weights or "", cfg, model, precision).network(assume=InputContract())
