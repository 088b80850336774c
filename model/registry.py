"""Turn the `module:` names of a configuration into networks. A YAML can name nothing but what is listed here."""

import difflib
import importlib
import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

from torch import nn

from model.ai_kd import WrapperModel
from model.embedding_dim import embedding_dim
from model.published.presets import MODULES
from model.weights import load_backbone, load_student
from utils.allowed import NOTHING_MORE, AllowedModules
from utils.config.sections import ModelConfig, ModuleSpec, NetworkConfig
from utils.errors import ConfigError, first_line

BACKBONES = (
    "model.iresnet.iresnet18",
    "model.iresnet.iresnet34",
    "model.iresnet.iresnet50",
    "model.iresnet.iresnet100",
    "model.iresnet.iresnet200",
    "model.compact.CompactNet",
    "model.mobilefacenet.MobileFaceNet",
)
"""What returns a backbone; a new one takes a file of its own and a line here."""
KNOWN = tuple(dict.fromkeys((*BACKBONES, *MODULES)))
"""The backbones above, and those that published networks need."""
NOT_FELT_FROZEN = ("dropout", "features_grad")
"""Parameters of these backbones that change nothing in evaluation mode."""
HEADS = ("model.mlp.MLP", "model.mlp.LinearHead")
MARGINS = ("model.margins.CosFaceHead", "model.margins.ArcFaceHead")
WRAPPER = "model.ai_kd.WrapperModel"


@dataclass(frozen=True)
class NetworkBuilder:
    """Build the networks that a configuration names."""

    allowed: AllowedModules = NOTHING_MORE
    """Packages beside the listed names."""
    allow_random_init: bool = False
    """Whether a backbone may do without weights."""

    def backbone(self, spec: ModuleSpec) -> nn.Module:
        """Build the network `spec.module` with `spec.params`, with random weights.

        Known names may be shortened to their last part. `package.Name` is imported only of an allowed package; of
        several outputs such a network may return, the embedding is the one that `output` names, else the first.
        """
        name = full_name(KNOWN, spec.module)
        if name is not None:
            return _call(_listed(name), spec)
        module = _call(self._foreign(spec.module), spec)
        module.register_forward_hook(_Chosen(getattr(spec, "output", None), spec.module))
        return module

    def pretrained(self, features: NetworkConfig) -> nn.Module:
        """Build the backbone of a `features` section and load its weights.

        Without weights (`weights: null`) it is an error unless random ones are allowed.
        """
        backbone = self.backbone(features)
        if features.weights is not None:
            load_backbone(backbone, features.weights, features.part)
        elif not self.allow_random_init:
            raise ConfigError(
                f"model.features.weights: {features.module} has none; name a weights file, or set "
                "base.allow_random_init: 1 to start from random ones"
            )
        return backbone

    def student(self, model_cfg: ModelConfig) -> WrapperModel:
        """Build the student to train: backbone with its pretrained weights, new quality head."""
        return _wrap(model_cfg, self.pretrained(model_cfg.features))

    def trained_student(self, model_cfg: ModelConfig, weight: str) -> WrapperModel:
        """Build a student for scoring: only `weight`, the file of a trained quality model, is read. In eval mode."""
        student = _wrap(model_cfg, self.backbone(model_cfg.features))
        load_student(student, weight, model_cfg.features.part)
        return student.eval()

    def _foreign(self, name: str) -> Callable[..., nn.Module]:
        """Import `package.Name` of an allowed package; only what that package itself defines is taken."""
        package, dot, _ = name.partition(".")
        if not dot or name.rpartition(".")[0] not in self.allowed:
            near = difflib.get_close_matches(name, BACKBONES, 1, cutoff=0.6)
            hint = f"did you mean {near[0]}" if near else f"known are {', '.join(BACKBONES)}"
            more = f"; for a network of your own add --allow-module {package}" if dot and package != "model" else ""
            raise ConfigError(f"model.features.module: {name!r} is not known; {hint}{more}")
        factory = self.allowed.load(name, "model.features.module")
        if not callable(factory):
            raise ConfigError(f"model.features.module: {name!r} is a {type(factory).__name__}, not a class or function")
        return cast("Callable[..., nn.Module]", factory)


def build_head(spec: ModuleSpec, in_dim: int) -> nn.Module:
    """Build the quality head `spec.module` for embeddings of `in_dim` numbers."""
    name = full_name(HEADS, spec.module)
    if name is None:
        raise ConfigError(f"model.head.module: {spec.module!r} is not known; use one of {', '.join(HEADS)}")
    stated = spec.params.get("in_dim", in_dim)
    if stated != in_dim:
        raise ConfigError(f"model.head.params.in_dim: {stated} given, the backbone has {in_dim}; remove the key")
    return _call(_listed(name), spec, in_dim=in_dim)


def build_margin(spec: ModuleSpec, in_dim: int, num_classes: int) -> nn.Module:
    """Build the margin head `spec.module` for `num_classes` identities."""
    name = full_name(MARGINS, spec.module)
    if name is None:
        raise ConfigError(f"loss.recognition.module: {spec.module!r} is not known; use one of {', '.join(MARGINS)}")
    return _call(_listed(name), spec, in_dim=in_dim, num_classes=num_classes)


def full_name(listed: Sequence[str], name: str) -> str | None:
    """Return the listed name that `name`, whole or its last part, means; None when there is none."""
    return next((one for one in listed if name in (one, one.rpartition(".")[2])), None)


def _listed(name: str) -> Callable[..., nn.Module]:
    module, _, attribute = name.rpartition(".")
    return getattr(importlib.import_module(module), attribute)


def _wrap(model_cfg: ModelConfig, backbone: nn.Module) -> WrapperModel:
    if full_name((WRAPPER,), model_cfg.wrapper.module) is None:
        raise ConfigError(f"model.wrapper.module: {model_cfg.wrapper.module!r} is not known; use {WRAPPER}")
    return WrapperModel(backbone, build_head(model_cfg.head, embedding_dim(backbone)))


def _call(factory: Callable[..., nn.Module], spec: ModuleSpec, **more: int) -> nn.Module:
    params = {**spec.params, **more}
    try:
        inspect.signature(factory).bind(**params)
        module = factory(**params)
    except Exception as error:  # the factory may be a user's own code
        given = ", ".join(f"{key}={value!r}" for key, value in params.items())
        raise ConfigError(f"{spec.module}({given}): cannot be built: {first_line(error)}") from error
    if not isinstance(module, nn.Module):
        raise ConfigError(f"{spec.module}: returns a {type(module).__name__}, not a torch.nn.Module")
    return module


@dataclass(frozen=True)
class _Chosen:
    """Let a network of several outputs return one tensor."""

    output: str | int | None
    name: str

    def __call__(self, module: nn.Module, inputs: tuple, output: Any) -> Any:
        if isinstance(output, Mapping):
            wanted = next(iter(output)) if self.output is None and len(output) == 1 else self.output
            found = output.get(wanted)
            names = ", ".join(map(repr, output))
        elif isinstance(output, tuple | list) and output:
            wanted = 0 if self.output is None else self.output
            found = output[wanted] if isinstance(wanted, int) and -len(output) <= wanted < len(output) else None
            names = f"0 to {len(output) - 1}"
        else:
            if self.output not in (None, 0):
                raise ConfigError(f"{self.name}: has one output and no {self.output!r}; leave output out")
            return output
        if found is None:
            which = "several" if self.output is None else f"no {self.output!r}"
            raise ConfigError(f"{self.name}: has outputs {names}, {which}; name one in output")
        return found
