"""A trained quality model, ready to score: crops in, one number per image out."""

import contextlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from model.frozen.fold import fold_batchnorm
from model.frozen.onnx_scorer import OnnxScorer, load_onnx_scorer
from model.frozen.preprocess import normalise
from model.registry import trained_student
from model.sharing.files import read_record
from utils.config.sections import ModelConfig
from utils.contract import InputContract, load_contract, sidecar
from utils.errors import UserError, WeightsError

DTYPES = {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}


CPU_IMAGES_PER_THREAD = 8
"""A CPU network takes batches in pieces of so many images: activations stay in its caches."""


class Scorer:
    """Score uint8 crops; the same numbers for any batch size, within 1e-5 in fp32."""

    def __init__(self, student: nn.Module, contract: InputContract, device: torch.device, precision: str = "fp32"):
        """Move a trained WrapperModel to the device. fp32 means fp32: TF32 is switched off for the process."""
        self.contract, self.device = contract, device
        network = fold_batchnorm(student).requires_grad_(False)
        self.network = network.to(device, memory_format=torch.channels_last)
        self.dtype = DTYPES[precision]
        if device.type == "cuda":
            torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False

    @torch.inference_mode()
    def __call__(self, images_BHW3: Tensor) -> np.ndarray:
        """Return the qualities (B,) float32 of crops (B, 112, 112, 3) uint8 RGB, higher = better."""
        if not len(images_BHW3):
            return np.zeros(0, np.float32)
        size = len(images_BHW3) if self.device.type != "cpu" else CPU_IMAGES_PER_THREAD * torch.get_num_threads()
        try:
            return torch.cat([self._forward(piece) for piece in images_BHW3.split(size)]).cpu().numpy()
        except torch.OutOfMemoryError as error:
            raise UserError(
                f"{self.device}: {len(images_BHW3)} images at once do not fit into its memory; "
                "lower dataloader.params.batch_size and run again to go on"
            ) from error

    def _forward(self, images_BHW3: Tensor) -> Tensor:
        x_BCHW = normalise(images_BHW3, self.contract, self.device)
        with self._autocast():
            _, quality_B = self.network(x_BCHW)
        return quality_B.float()

    def _autocast(self) -> contextlib.AbstractContextManager:
        return contextlib.nullcontext() if self.dtype is None else torch.autocast(self.device.type, self.dtype)


def checked_contract(model_cfg: ModelConfig, weight: str | Path) -> tuple[InputContract, str | None]:
    """Return the preprocessing contract of the `transform` block and, where nothing confirms it, a line to log.

    Raises ContractError when the contract file beside the weights names another one.
    """
    contract = InputContract.from_transform(model_cfg.transform)
    if not Path(weight).is_file():
        raise WeightsError(f"{weight}: no such weights file; name it in model.weight")
    saved, place = load_contract(weight), sidecar(weight)
    if saved is None and (record := read_record(weight)) is not None:
        saved, place = InputContract.from_dict(record["contract"], weight), weight
    if saved is not None:
        contract.require(saved, place)
        return contract, None
    kind = "the official preprocessing" if contract == InputContract() else "the preprocessing of model.config"
    return contract, (
        f"{weight}: no contract file {sidecar(weight).name} beside it; takes {kind}: "
        f"{contract.size_px} px, {contract.channels}, mean {contract.mean}, std {contract.std}"
    )


def load_scorer(
    model_cfg: ModelConfig | None, weight: str, allow_modules: Sequence[str], device: torch.device, precision: str
) -> tuple[Scorer | OnnxScorer, str | None]:
    """Build the network, load `weight`, the only file read, and check its contract; see checked_contract.

    An ONNX file holds network and contract and takes no `model_cfg`.
    """
    if model_cfg is None:
        scorer = load_onnx_scorer(weight, device, precision)
        behind = device.type == "cuda" and scorer.device.type == "cpu"
        return scorer, f"onnxruntime has no CUDA here; {weight} computes on the CPU" if behind else None
    contract, remark = checked_contract(model_cfg, weight)
    return Scorer(trained_student(model_cfg, weight, allow_modules), contract, device, precision), remark
