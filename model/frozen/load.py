"""From a configuration to a frozen network: weights loaded, contract checked, on its device."""

from dataclasses import dataclass, replace
from pathlib import Path

import torch

from model.frozen.base import FrozenNetwork
from model.frozen.onnx_network import OnnxNetwork, is_onnx
from model.frozen.torch_network import TorchNetwork
from model.registry import NetworkBuilder
from model.sharing.files import read_record
from utils.config.sections import ModelConfig
from utils.contract import InputContract, load_contract, sidecar
from utils.errors import ConfigError, WeightsError


@dataclass(frozen=True)
class NetworkSpec:
    """Say which network answers, and how."""

    model: ModelConfig | None
    """Its parts; None: an ONNX file."""
    weight: str | None
    """The file all weights come from; None: random ones, where they are allowed."""
    contract: InputContract | None
    """How crops become its input; None: as the ONNX file says."""
    quality: bool = False
    """Whether it is a trained quality model, with its head; else a backbone."""
    folded: bool = False
    """Whether BatchNorms are folded: faster, other numbers in the last digits."""
    precision: str = "fp32"
    """fp32, bf16 or fp16."""
    random_init: bool = False
    """Whether it may do without weights, for trials."""
    remark: str = ""
    """One sentence about weights and preprocessing the user should read once, or nothing."""


@dataclass(frozen=True)
class NetworkLoader:
    """Load frozen networks onto one device."""

    builder: NetworkBuilder
    device: torch.device

    def load(self, spec: NetworkSpec) -> FrozenNetwork:
        """Build the network and load its weights; no other weights file is read."""
        network = self._onnx(spec) if spec.model is None else self._torch(spec, spec.model)
        network.remark = network.remark or spec.remark
        return network

    def _torch(self, spec: NetworkSpec, model: ModelConfig) -> TorchNetwork:
        if spec.quality:
            module = self.builder.trained_student(model, spec.weight)
        else:
            builder = replace(self.builder, allow_random_init=spec.random_init)
            module = builder.pretrained(model.features.model_copy(update={"weights": spec.weight}))
        return TorchNetwork(module, spec.contract, self.device, spec.precision, spec.folded)

    def _onnx(self, spec: NetworkSpec) -> OnnxNetwork:
        return OnnxNetwork(Path(spec.weight).read_bytes(), spec.weight, self.device, spec.contract)


def scorer_spec(model_cfg: ModelConfig | None, weight: str, precision: str = "fp32") -> NetworkSpec:
    """Describe a trained quality model that scores; its contract is checked, see checked_contract.

    An ONNX file holds network and contract and takes no `model_cfg`.
    """
    if model_cfg is None or is_onnx(weight):
        return onnx_spec(weight, None, precision)
    contract, remark = checked_contract(model_cfg, weight)
    return NetworkSpec(model_cfg, weight, contract, True, folded=True, precision=precision, remark=remark or "")


def onnx_spec(weight: str, contract: InputContract | None, precision: str = "fp32") -> NetworkSpec:
    """Describe the network of an ONNX file; its contract, where the file does not carry one."""
    if not Path(weight).is_file():
        raise WeightsError(f"{weight}: no such weights file; check the path")
    if precision != "fp32":
        raise ConfigError(f"{weight}: an ONNX file computes in fp32, not {precision}; set base.precision=fp32")
    return NetworkSpec(None, weight, contract)


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
