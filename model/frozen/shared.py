"""One network, and one pass over a batch, for all methods that ask the same trunk with the same weights."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from model.frozen.load import NetworkLoader, NetworkSpec, TorchSpec
from model.frozen.network import FrozenNetwork
from model.registry import KNOWN, NOT_FELT_FROZEN, full_name
from utils.config.sections import NetworkConfig
from utils.files import sha256_file


@dataclass(frozen=True)
class SharedLoader(NetworkLoader):
    """Load what several methods need; those that may share a network get the same one, and it remembers its answer.

    Methods share a network when backbone, weights, preprocessing, precision and folding are the same. It has the
    quality head and the dropout that one of them needs: neither changes the embedding.
    """

    specs: Sequence[NetworkSpec] = ()
    """All that will be asked for."""
    loaded: dict[str, FrozenNetwork] = field(default_factory=dict)
    hashes: dict[str, str] = field(default_factory=dict)
    """Weights file -> SHA-256."""

    def load(self, spec: NetworkSpec) -> FrozenNetwork:
        """Return the network that answers what `spec` asks."""
        if spec.weight is None:  # random weights: each network has its own
            return super().load(spec)
        own = self._identity(spec)
        if isinstance(spec, TorchSpec):
            alike = [one for one in self.specs if isinstance(one, TorchSpec) and self._identity(one) == own]
            spec = _fullest(spec, alike)
            head = spec.model.head.model_dump() if spec.quality else None
            own += json.dumps([head, spec.model.features.params.get("dropout")], default=repr)
        if own not in self.loaded:
            self.loaded[own] = super().load(spec)
            self.loaded[own].remembers = True
        return self.loaded[own]

    def _identity(self, spec: NetworkSpec) -> str:
        """Return what networks must have in common to be one."""
        weight = spec.weight or ""
        if weight not in self.hashes:
            self.hashes[weight] = sha256_file(weight) if weight else ""
        facts: list[Any] = [self.hashes[weight], spec.contract and spec.contract.to_dict(), asdict(spec.reading)]
        if isinstance(spec, TorchSpec):
            features = spec.model.features
            facts += [_felt(features), features.part, features.output, spec.precision, spec.folded]
        return json.dumps(facts, sort_keys=True, default=repr)


def _felt(features: NetworkConfig) -> tuple[str, dict[str, Any]]:
    """Return a backbone's name and those of its parameters that a frozen network feels."""
    name = full_name(KNOWN, features.module)
    if name is None:
        return features.module, features.params
    return name, {key: value for key, value in features.params.items() if key not in NOT_FELT_FROZEN}


def _fullest(spec: TorchSpec, alike: Sequence[TorchSpec]) -> TorchSpec:
    """Return `spec` with the quality head and the dropout of the first of those alike that has one."""
    headed = next((one for one in (spec, *alike) if one.quality), spec)
    features = headed.model.features
    rates = [one.model.features.params.get("dropout") for one in (spec, *alike)]
    if rate := next(filter(None, rates), None):
        features = features.model_copy(update={"params": {**features.params, "dropout": rate}})
    return replace(headed, model=headed.model.model_copy(update={"features": features}))
