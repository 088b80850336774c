"""From what a configuration says about a network to all that is needed to load, feed and read it."""

from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

from model.frozen.load import NetworkSpec, OnnxSpec, TorchSpec, checked_contract
from model.frozen.onnx_network import is_onnx
from model.published.presets import PRESETS, Preset, find_preset
from model.published.recognise import recognise
from model.registry import KNOWN, full_name
from model.sharing.files import read_record, recorded_model
from model.weights import no_weights, read_state_dict
from utils.config import beside, load_config
from utils.config.sections import ModelConfig, NetworkKeys
from utils.contract import InputContract, Reading
from utils.errors import ConfigError, ContractError, WeightsError


def named_model(path: str | None, place: str | Path, weight: str | None, preset: str | None) -> ModelConfig | None:
    """Read the model_config.yaml `path`, from the working directory or beside `place`, where it is asked for.

    An ONNX file needs none, nor does a preset with layers of its own.
    """
    if path is None or (weight is not None and is_onnx(weight)) or (preset and find_preset(preset).module):
        return None
    return load_config(ModelConfig, beside(path, place))


@dataclass(frozen=True)
class Described:
    """Hold what a configuration says about one network."""

    weight: str
    """Its file."""
    keys: NetworkKeys
    """How it is fed and read."""
    model: ModelConfig | None = None
    """Its parts, where a model_config.yaml or a backbone is named."""
    precision: str = "fp32"

    def scorer(self) -> NetworkSpec:
        """Describe a network that gives qualities. The contract is checked, see checked_contract."""
        spec = self.network()
        if isinstance(spec, OnnxSpec):
            return spec
        if spec.reading.quality != "head":
            return replace(spec, folded=True)
        if self.model is None or self.keys.preset is not None:
            name = self.keys.preset or self._recognised
            if name is not None and PRESETS[name].head is None:
                raise WeightsError(
                    f"{self.weight}: {name} is a recognition network without a quality; name the weights of a quality "
                    "model, or set quality: length"
                )
        return replace(spec, quality=True, folded=True)

    def network(self, assume: InputContract | None = None) -> NetworkSpec:
        """Describe a network that gives embeddings, or what its reading says.

        assume: the contract of an ONNX file that carries none and whose configuration states none.
        """
        preset = None if self.keys.preset is None else find_preset(self.keys.preset)
        if not Path(self.weight).is_file():
            raise no_weights(self.weight)
        return self._onnx(preset, assume) if is_onnx(self.weight) else self._torch(preset)

    def _onnx(self, preset: Preset | None, assume: InputContract | None) -> OnnxSpec:
        if self.precision != OnnxSpec.precision:
            raise ConfigError(
                f"{self.weight}: an ONNX file computes in fp32, not {self.precision}; set base.precision=fp32"
            )
        stated = preset is not None or bool(self.keys.fed)
        contract = replace(preset.contract if preset else InputContract(), **self.keys.fed) if stated else assume
        return OnnxSpec(self.weight, contract, assumed=not stated, reading=self._reading(preset))

    def _torch(self, preset: Preset | None) -> TorchSpec:
        name = self.keys.preset or self._recognised
        found = None if name is None else PRESETS[name]
        model, remark = self._parts(preset, name)
        updates = {key: value for key in ("part", "output") if (value := getattr(self.keys, key)) is not None}
        reading = self._reading(preset or (found if self.model is None else None))
        if found is not None and reading.output is not None:
            updates.setdefault("output", reading.output)
        self._check_output(model, found)
        model = model.model_copy(update={"features": model.features.model_copy(update=updates)})
        contract = InputContract.from_transform(model.transform, model.channels)
        told = {"transform", "channels"} & model.model_fields_set and preset is None
        if found is not None and not told:
            contract = found.contract
            remark = remark or ("" if preset or contract == InputContract() else _recognised_as(self.weight, name))
        contract = replace(contract, **self.keys.fed)
        other = _other_pixels(self.weight, name, contract)
        if preset is None and other and not self.keys.fed:
            remark = f"warning: {other}; model.preset={name} takes its own"
        confirmed = checked_contract(contract, self.weight)
        hint = f"its keys are those of a published network: set preset: {name}" if self._other(model, found) else ""
        facts = {"precision": self.precision, "reading": replace(reading, output=None)}
        return TorchSpec(model, self.weight, contract, **facts, remark=remark or confirmed or "", hint=hint)

    def _parts(self, preset: Preset | None, name: str | None) -> tuple[ModelConfig, str]:
        """Return the network's parts, and a line to log where the file said them."""
        if preset is not None:
            model = preset.model() or self.model
            if model is None:
                raise ConfigError(
                    f"preset: {self.keys.preset} has no layers here; name its backbone in model.config "
                    "(--allow-module), or an ONNX file"
                )
            return model, ""
        if self.model is not None:
            return self._with_params(self.model, name), ""
        if read_record(self.weight) is not None:
            return recorded_model(self.weight), ""
        if name is not None:
            model = PRESETS[name].model()
            if model is not None:
                return model, _recognised_as(self.weight, name)
        raise ConfigError(
            f"{self.weight}: does not say which network it was made for, and has the keys of no published one; "
            "name a model_config.yaml in model.config, or a preset"
        )

    def _with_params(self, model: ModelConfig, name: str | None) -> ModelConfig:
        """Give the named backbone what the recognised one has beside its keys, such as MagFace's epsilon."""
        found = None if name is None else PRESETS[name]
        if found is None or self._other(model, found):
            return model
        params = {**found.params, **model.features.params}
        return model.model_copy(update={"features": model.features.model_copy(update={"params": params})})

    def _check_output(self, model: ModelConfig, found: Preset | None) -> None:
        """Raise ConfigError where a network of this repository is asked for another output than its embedding."""
        named, ours = self.keys.output, full_name(KNOWN, model.features.module)
        if ours is not None and named not in (None, 0, found and found.reading.output):
            raise ConfigError(
                f"output: {named!r} is none of {ours}, which gives its embedding alone; remove output, or name a "
                "network of your own in model.config (--allow-module), without a preset"
            )

    def _reading(self, preset: Preset | None) -> Reading:
        known = Reading() if preset is None else preset.reading
        return Reading(
            known.output if self.keys.output is None else self.keys.output, self.keys.quality or known.quality
        )

    @cached_property
    def _recognised(self) -> str | None:
        return recognise(read_state_dict(self.weight, self.keys.part))

    def _other(self, model: ModelConfig, found: Preset | None) -> bool:
        """Tell whether the file is that of another network than the one that was named."""
        return found is not None and found.module not in (None, full_name(KNOWN, model.features.module))


def require_own_input(model: ModelConfig, contract: InputContract, accepted: str | None = None) -> list[str]:
    """Refuse to train from, or towards, a network on other pixels than it was trained on itself.

    Its weights say so by a contract beside or in them, or by the keys of a published network. The latter is returned
    as a line where `accepted`, the key that accepts it, is given.
    """
    lines = []
    for spec in filter(None, (model.features, model.teacher)):
        if spec.weights is None:
            continue
        checked_contract(contract, spec.weights)
        other = _other_pixels(spec.weights, recognise(read_state_dict(spec.weights, spec.part)), contract)
        if other:
            lines.append(f"{other}; state channels and transform there as the network takes them")
    if lines and accepted is None:
        raise ContractError(f"{lines[0]}; or, if it is meant to be so, set dataset.accept_unusual: 1")
    return [f"{line}; accepted by {accepted}" for line in lines]


def _other_pixels(weight: str, name: str | None, contract: InputContract) -> str:
    """Say that the recognised network takes other pixels, or nothing.

    Keys of networks of the official preprocessing say nothing: many others bear them.
    """
    known = contract if name is None else PRESETS[name].contract
    if known in (InputContract(), contract):
        return ""
    return (
        f"{weight}: has the keys of {name}, which takes {_words(known)}; the configuration of the model says "
        f"{_words(contract)}"
    )


def _recognised_as(weight: str, name: str | None) -> str:
    if name is None:
        return ""
    return f"{weight}: {name} by its keys: {PRESETS[name].about}; {_words(PRESETS[name].contract)}"


def _words(contract: InputContract) -> str:
    mean, std = (" ".join(f"{x:g}" for x in dict.fromkeys(values)) for values in (contract.mean, contract.std))
    return f"{contract.channels}, {contract.size_px} px, mean {mean}, std {std}"
