"""Trained students that describe themselves: ONNX and safetensors files with network, contract and hash inside.

Both carry one metadata entry, `ai_kd`, a JSON object: contract (preprocessing), model (model_config.yaml without
weights), method, weights_sha256 (of the file they were exported from).
"""

import json
import logging
import tempfile
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save
from torch import Tensor, nn

from model.frozen.network import normalise
from utils.config.loading import validate
from utils.config.sections import ModelConfig
from utils.contract import InputContract
from utils.errors import ConfigError, WeightsError
from utils.outside.reading import reading

KEY = "ai_kd"
INPUT = "crops"
OUTPUTS = ("quality", "embedding")


class _CropGraph(nn.Module):
    """What the ONNX file holds: normalisation and student as one network of uint8 crops (B, S, S, 3)."""

    def __init__(self, student: nn.Module, contract: InputContract):
        super().__init__()
        self.student, self.contract = student, contract
        self.eval().requires_grad_(False)

    def forward(self, crops: Tensor) -> tuple[Tensor, Tensor]:
        """Return qualities (B,) and embeddings (B, D), in the order of OUTPUTS."""
        embedding_BD, quality_B = self.student(normalise(crops, self.contract))
        return quality_B, embedding_BD


def describe(model_cfg: ModelConfig, contract: InputContract, **facts: Any) -> dict[str, Any]:
    """Return the metadata of a shared file; paths of weights are left out."""
    model = model_cfg.model_copy(
        update={"features": model_cfg.features.model_copy(update={"weights": None}), "teacher": None}
    )
    unstated = {"part"} if model.features.output is not None else {"part", "output"}
    plain = model.model_dump(mode="json", exclude={"features": unstated})
    return {"contract": contract.to_dict(), "model": plain, **facts}


def to_onnx(student: nn.Module, contract: InputContract, record: Mapping[str, Any]) -> bytes:
    """Return a student as an ONNX file for uint8 crops in batches of any size, with `record` as its metadata."""
    try:
        import onnx
        import onnxscript  # noqa: F401  torch's exporter needs it
    except ImportError as error:
        raise ConfigError(
            f"output.formats: onnx needs the package {error.name}; run pip install onnx onnxscript onnxruntime, or set "
            "output.formats=[safetensors]"
        ) from error
    size = contract.size_px
    crops = torch.zeros(2, size, size, 3, dtype=torch.uint8)
    with tempfile.TemporaryDirectory() as folder, _quiet_exporter():
        path = str(Path(folder) / "student.onnx")
        torch.onnx.export(
            _CropGraph(student, contract),
            (crops,),
            path,
            input_names=[INPUT],
            output_names=list(OUTPUTS),
            dynamic_shapes={"crops": {0: torch.export.Dim("batch")}},
            dynamo=True,
            external_data=False,
            verbose=False,
        )
        proto = onnx.load(path)
    onnx.helper.set_model_props(proto, {KEY: json.dumps(record)})
    return proto.SerializeToString()


def to_safetensors(state: Mapping[str, Tensor], record: Mapping[str, Any]) -> bytes:
    """Return a state_dict as a safetensors file with `record` as its metadata."""
    plain = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in state.items()}
    return save(plain, metadata={KEY: json.dumps(record), "format": "pt"})


def read_record(path: str | Path) -> dict[str, Any] | None:
    """Return the metadata of a shared safetensors file; None for a file of any other kind or origin."""
    if Path(path).suffix.lower() != ".safetensors" or not Path(path).is_file():
        return None
    with (
        reading(path, "not a readable safetensors file", "fetch it again", WeightsError),
        safe_open(path, framework="pt") as stream,
    ):
        return parse_record((stream.metadata() or {}).get(KEY), path)


def parse_record(text: str | None, path: str | Path) -> dict[str, Any] | None:
    """Read the JSON of the metadata entry; None when there is none."""
    if text is None:
        return None
    try:
        record = json.loads(text)
        if isinstance(record["contract"], dict) and isinstance(record["model"], dict):
            return record
    except (ValueError, KeyError, TypeError, RecursionError):
        pass
    raise WeightsError(f"{path}: its metadata entry {KEY!r} is damaged; export it again")


def recorded_model(path: str | Path) -> ModelConfig:
    """Return the network that a shared safetensors file says it was made for."""
    record = read_record(path)
    if record is None:
        raise ConfigError(
            f"{path}: does not say which network it was made for, as files of export.py do; "
            "name a model_config.yaml in model.config"
        )
    return validate(ModelConfig, record["model"], f"{path}, metadata")


@contextmanager
def _quiet_exporter() -> Iterator[None]:
    """Keep torch's exporter from reporting to the terminal about things no user can change."""
    levels = {logger: logger.level for logger in map(logging.getLogger, ("torch.onnx", "onnxscript", "onnx_ir"))}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for logger in levels:
            logger.setLevel(logging.ERROR)
        try:
            yield
        finally:
            for logger, level in levels.items():
                logger.setLevel(level)
