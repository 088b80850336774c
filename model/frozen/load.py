"""From a configuration to a frozen network: weights loaded, contract checked, on its device."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar

import torch
from torch import nn

from model.frozen.network import FrozenNetwork, TorchNetwork
from model.frozen.onnx_network import OnnxNetwork, is_onnx
from model.registry import NetworkBuilder
from model.sharing.files import read_record
from utils.config.sections import ModelConfig
from utils.contract import InputContract, load_contract, sidecar
from utils.errors import ConfigError, WeightsError


@dataclass(frozen=True)
class TorchSpec:
    """Say which network in torch answers, and how."""

    model: ModelConfig
    """Its parts."""
    weight: str | None
    """The file all weights come from; None: random ones, where they are allowed."""
    contract: InputContract
    """How crops become its input."""
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
class OnnxSpec:
    """Say which ONNX file answers."""

    weight: str
    contract: InputContract | None = None
    """How crops become its input, where the file does not say so."""
    precision: ClassVar[str] = "fp32"

    @classmethod
    def checked(cls, weight: str, contract: InputContract | None, precision: str) -> "OnnxSpec":
        """Describe a file that must be there, in the one precision there is."""
        if not Path(weight).is_file():
            raise WeightsError(f"{weight}: no such weights file; check the path")
        if precision != cls.precision:
            raise ConfigError(f"{weight}: an ONNX file computes in fp32, not {precision}; set base.precision=fp32")
        return cls(weight, contract)


NetworkSpec = TorchSpec | OnnxSpec


@dataclass(frozen=True)
class NetworkLoader:
    """Load frozen networks onto one device."""

    builder: NetworkBuilder
    device: torch.device

    def load(self, spec: NetworkSpec) -> FrozenNetwork:
        """Build the network and load its weights; no other weights file is read."""
        if isinstance(spec, OnnxSpec):
            return OnnxNetwork(Path(spec.weight).read_bytes(), spec.weight, self.device, spec.contract)
        network = TorchNetwork(self._module(spec), spec.contract, self.device, spec.precision, spec.folded)
        network.remark = spec.remark
        return network

    def _module(self, spec: TorchSpec) -> nn.Module:
        if not spec.quality:
            builder = replace(self.builder, allow_random_init=spec.random_init)
            return builder.pretrained(spec.model.features.model_copy(update={"weights": spec.weight}))
        if spec.weight is None:
            raise ConfigError("model.weight: a quality model is nothing without its weights; name their file")
        return self.builder.trained_student(spec.model, spec.weight)


def scorer_spec(model_cfg: ModelConfig | None, weight: str, precision: str = "fp32") -> NetworkSpec:
    """Describe a trained quality model that scores; its contract is checked, see checked_contract.

    An ONNX file holds network and contract and takes no `model_cfg`.
    """
    if model_cfg is None or is_onnx(weight):
        return OnnxSpec.checked(weight, None, precision)
    contract, remark = checked_contract(model_cfg, weight)
    return TorchSpec(model_cfg, weight, contract, True, folded=True, precision=precision, remark=remark or "")


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
