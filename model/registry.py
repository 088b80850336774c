"""Turn the `module:` names of a configuration into networks. A YAML can name nothing but what is listed here."""

import difflib
import importlib
import inspect
from collections.abc import Callable, Sequence
from typing import Any

from torch import nn

from model import compact, iresnet, margins, mlp, mobilefacenet
from model.ai_kd import WrapperModel
from model.embedding_dim import embedding_dim
from model.weights import load_backbone, load_student
from utils.errors import ConfigError, first_line

BACKBONES: dict[str, Callable[..., nn.Module]] = {
    "model.iresnet.iresnet18": iresnet.iresnet18,
    "model.iresnet.iresnet34": iresnet.iresnet34,
    "model.iresnet.iresnet50": iresnet.iresnet50,
    "model.iresnet.iresnet100": iresnet.iresnet100,
    "model.iresnet.iresnet200": iresnet.iresnet200,
    "model.compact.CompactNet": compact.CompactNet,
    "model.mobilefacenet.MobileFaceNet": mobilefacenet.MobileFaceNet,
}
HEADS: dict[str, Callable[..., nn.Module]] = {
    "model.mlp.MLP": mlp.MLP,
    "model.mlp.LinearHead": mlp.LinearHead,
}
MARGINS: dict[str, Callable[..., nn.Module]] = {
    "model.margins.CosFaceHead": margins.CosFaceHead,
    "model.margins.ArcFaceHead": margins.ArcFaceHead,
}
WRAPPER = "model.ai_kd.WrapperModel"


def build_backbone(spec, allow_modules: Sequence[str] = ()) -> nn.Module:
    """Build the network `spec.module` with `spec.params`, with random weights.

    Known names may be shortened to their last part. `package.Name` is imported only when `package` is in
    `allow_modules`; of several outputs such a network may return, the first is the embedding.
    """
    factory = _known(BACKBONES, spec.module)
    if factory is not None:
        return _call(factory, spec.module, spec.params)
    module = _call(_foreign(spec.module, allow_modules), spec.module, spec.params)
    module.register_forward_hook(_first_output)
    return module


def build_head(spec, in_dim: int) -> nn.Module:
    """Build the quality head `spec.module` for embeddings of `in_dim` numbers."""
    factory = _known(HEADS, spec.module)
    if factory is None:
        raise ConfigError(f"model.head.module: {spec.module!r} is not known; use one of {', '.join(HEADS)}")
    stated = spec.params.get("in_dim", in_dim)
    if stated != in_dim:
        raise ConfigError(f"model.head.params.in_dim: {stated} given, the backbone has {in_dim}; remove the key")
    return _call(factory, spec.module, {**spec.params, "in_dim": in_dim})


def build_margin(spec, in_dim: int, num_classes: int) -> nn.Module:
    """Build the margin head `spec.module` for `num_classes` identities."""
    factory = _known(MARGINS, spec.module)
    if factory is None:
        raise ConfigError(f"loss.recognition.module: {spec.module!r} is not known; use one of {', '.join(MARGINS)}")
    return _call(factory, spec.module, {**spec.params, "in_dim": in_dim, "num_classes": num_classes})


def pretrained_backbone(features, allow_modules: Sequence[str] = (), allow_random_init: bool = False) -> nn.Module:
    """Build the backbone of a `features` section and load its weights.

    Without weights (`weights: null`) it is an error unless `allow_random_init` is set.
    """
    backbone = build_backbone(features, allow_modules)
    if features.weights is not None:
        load_backbone(backbone, features.weights)
    elif not allow_random_init:
        raise ConfigError(
            f"model.features.weights: {features.module} has none; name a weights file, or set "
            "base.allow_random_init: 1 to start from random ones"
        )
    return backbone


def build_student(model_cfg, allow_modules: Sequence[str] = (), allow_random_init: bool = False) -> nn.Module:
    """Build the student to train: backbone with its pretrained weights, new quality head."""
    return _wrap(model_cfg, pretrained_backbone(model_cfg.features, allow_modules, allow_random_init))


def trained_student(model_cfg, weight: str, allow_modules: Sequence[str] = ()) -> nn.Module:
    """Build a student for scoring: only `weight`, the file of a trained quality model, is read. In eval mode."""
    student = _wrap(model_cfg, build_backbone(model_cfg.features, allow_modules))
    load_student(student, weight)
    return student.eval()


def _wrap(model_cfg, backbone: nn.Module) -> nn.Module:
    if model_cfg.wrapper.module not in (WRAPPER, WRAPPER.rpartition(".")[2]):
        raise ConfigError(f"model.wrapper.module: {model_cfg.wrapper.module!r} is not known; use {WRAPPER}")
    return WrapperModel(backbone, build_head(model_cfg.head, embedding_dim(backbone)))


def _known(table: dict[str, Callable[..., nn.Module]], name: str) -> Callable[..., nn.Module] | None:
    return table.get(name) or {full.rpartition(".")[2]: factory for full, factory in table.items()}.get(name)


def _foreign(name: str, allow_modules: Sequence[str]) -> Callable[..., nn.Module]:
    """Import `package.Name` of an allowed package; only what that package itself defines is taken."""
    package = name.partition(".")[0]
    path, _, attribute = name.rpartition(".")
    if not path or package not in allow_modules:
        near = difflib.get_close_matches(name, BACKBONES, 1, cutoff=0.6)
        hint = f"did you mean {near[0]}" if near else f"known are {', '.join(BACKBONES)}"
        more = f"; for a network of your own add --allow-module {package}" if path and package != "model" else ""
        raise ConfigError(f"model.features.module: {name!r} is not known; {hint}{more}")
    try:
        factory = getattr(importlib.import_module(path), attribute)
    except Exception as error:  # importing runs the user's own code
        raise ConfigError(f"model.features.module: {name!r} cannot be imported: {first_line(error)}") from error
    home = (getattr(factory, "__module__", None) or package).partition(".")[0]
    if home not in allow_modules:
        raise ConfigError(f"model.features.module: {name!r} is defined in {home}; add --allow-module {home}")
    if not callable(factory):
        raise ConfigError(f"model.features.module: {name!r} is a {type(factory).__name__}, not a class or function")
    return factory


def _call(factory: Callable[..., nn.Module], name: str, params: dict[str, Any]) -> nn.Module:
    try:
        inspect.signature(factory).bind(**params)
        module = factory(**params)
    except Exception as error:  # the factory may be a user's own code
        given = ", ".join(f"{key}={value!r}" for key, value in params.items())
        raise ConfigError(f"{name}({given}): cannot be built: {first_line(error)}") from error
    if not isinstance(module, nn.Module):
        raise ConfigError(f"{name}: returns a {type(module).__name__}, not a torch.nn.Module")
    return module


def _first_output(module: nn.Module, inputs: tuple, output: Any) -> Any:
    return output[0] if isinstance(output, tuple | list) and output else output
