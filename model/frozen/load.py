"""From a configuration to a frozen network: weights loaded, contract checked, on its device."""

from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import nn

from model.frozen.network import FrozenNetwork, TorchNetwork
from model.frozen.onnx_network import OnnxNetwork
from model.registry import NetworkBuilder
from model.sharing.files import read_record
from utils.config.sections import ModelConfig
from utils.contract import InputContract, Reading, load_contract, sidecar
from utils.errors import ConfigError, WeightsError
from utils.files import sha256_file

HEAD = Reading()


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
    reading: Reading = HEAD
    """What its quality is."""
    remark: str = ""
    """One sentence about weights and preprocessing the user should read once, or nothing."""
    hint: str = ""
    """What to add where the weights do not fit."""

    def facts(self) -> dict[str, Any]:
        """Return the JSON values that decide its numbers, beside contract, precision and the bytes of its weights."""
        features = self.model.features.model_dump(mode="json", exclude={"weights"}, exclude_defaults=True)
        facts: dict[str, Any] = {"features": {"params": {}, **features}}
        if self.quality:
            facts["head"] = self.model.head.model_dump(mode="json")
        return facts if self.reading == HEAD else {**facts, "reading": asdict(self.reading)}


@dataclass(frozen=True)
class OnnxSpec:
    """Say which ONNX file answers."""

    weight: str
    contract: InputContract | None = None
    """How crops become its input; None: as the file says."""
    assumed: bool = False
    """Whether nobody stated `contract`, so that what the file says comes first."""
    reading: Reading = HEAD
    """Which output counts, and what its quality is."""
    remark: str = ""
    """One sentence the user should read once, or nothing."""
    precision: ClassVar[str] = "fp32"

    def facts(self) -> dict[str, Any]:
        """Return the JSON values that decide its numbers, beside its contract and its bytes."""
        return {"format": "onnx"} if self.reading == HEAD else {"format": "onnx", "reading": asdict(self.reading)}


NetworkSpec = TorchSpec | OnnxSpec


@dataclass(frozen=True)
class NetworkLoader:
    """Load frozen networks onto one device."""

    builder: NetworkBuilder
    device: torch.device

    def load(self, spec: NetworkSpec) -> FrozenNetwork:
        """Build the network and load its weights; no other weights file is read.

        Raises WeightsError where another process replaces the file meanwhile.
        """
        read = sha256_file(spec.weight) if spec.weight and Path(spec.weight).is_file() else None
        if isinstance(spec, OnnxSpec):
            content = Path(spec.weight).read_bytes()
            network: FrozenNetwork = OnnxNetwork(content, spec.weight, self.device, spec.contract, spec.assumed)
            if spec.assumed and not network.describes_itself:
                taken = _taken(network.contract)
                network.remark = f"{spec.weight}: carries no preprocessing contract and none is stated; takes {taken}"
        else:
            try:
                module = self._module(spec)
            except WeightsError as error:
                raise WeightsError("; ".join(filter(None, (str(error), spec.hint)))) from error
            network = TorchNetwork(module, spec.contract, self.device, spec.precision, spec.folded)
        network.remark = network.remark or spec.remark
        network.reading, network.weight, network.facts = spec.reading, spec.weight, spec.facts()
        network.weights_sha256 = sha256_file(spec.weight) if spec.weight else None
        if network.weights_sha256 != read:
            raise WeightsError(f"{spec.weight}: was written anew while it was read; run again")
        return network

    def _module(self, spec: TorchSpec) -> nn.Module:
        if not spec.quality:
            builder = replace(self.builder, allow_random_init=spec.random_init)
            return builder.pretrained(spec.model.features.model_copy(update={"weights": spec.weight}))
        if spec.weight is None:
            raise ConfigError("model.weight: a quality model is nothing without its weights; name their file")
        return self.builder.trained_student(spec.model, spec.weight)


def checked_contract(contract: InputContract, weight: str | Path) -> str | None:
    """Return a line to log where nothing beside or in the weights confirms the contract.

    Raises ContractError when the file beside the weights, or their own metadata, names another one.
    """
    if not Path(weight).is_file():
        raise WeightsError(f"{weight}: no such weights file; name it in model.weight")
    saved, place = load_contract(weight), sidecar(weight)
    if saved is None and (record := read_record(weight)) is not None:
        saved, place = InputContract.from_dict(record["contract"], weight), Path(weight)
    if saved is not None:
        contract.require(saved, place)
        return None
    return f"{weight}: no contract file {sidecar(weight).name} beside it; takes {_taken(contract)}"


def _taken(contract: InputContract) -> str:
    kind = "the official preprocessing" if contract == InputContract() else "the preprocessing of model.config"
    return f"{kind}: {contract.size_px} px, {contract.channels}, mean {contract.mean}, std {contract.std}"
