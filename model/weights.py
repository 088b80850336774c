"""Read weights files safely and load them strictly, whichever of the published layouts they have."""

import logging
import pickle
import re
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from utils.errors import WeightsError
from utils.outside.reading import reading, shown

logger = logging.getLogger(__name__)

MODELS = ("state_dict", "model_state_dict", "state_dict_backbone", "model", "net", "network")
"""Entries of a file that hold the weights as the last step left them."""
AVERAGES = ("state_dict_ema", "ema_state_dict", "model_ema", "ema")
"""Entries that hold their running average; where a file has both, this is what its training measured."""
PREFIXES = ("module.", "backbone.", "encoder.", "model.", "net.", "network.")
"""What may stand before every key of a file."""

SWINFACE = ("backbone", "fam", "tss", "om")
"""Modules of SwinFace; its file holds `state_dict_NAME` of each."""

_WRAPPERS_AT_MOST = 8


class Layout(NamedTuple):
    """Name the key prefixes of one published layout."""

    name: str
    backbone: str
    head: str
    """Prefix of the quality head; "" where it has none."""
    ignored: tuple[str, ...] = ()
    """Prefixes of what only training needs, such as class weights."""


LAYOUTS = (
    Layout("AI-KD", "feature_extractor.", "quality_head."),
    Layout("eDifFIQA", "base_model.", "mlp."),
    Layout("DifFIQA(R)", "base.", "linear."),
    Layout("CR-FIQA", "", "qs."),  # a plain backbone is this one without a head
    Layout("SDD-FIQA", "", "quality.3."),
    Layout("MagFace", "features.module.", "", ("fc.", "module.fc.")),
    Layout("MagFace", "features.", "", ("fc.",)),
    Layout("Lightning", "model.", "", ("head.",)),
    Layout("Lightning", "net.", "", ("head.",)),
    Layout("SwinFace", "backbone.", "", ("fam.", "tss.", "om.")),
)


class SplitState(NamedTuple):
    """Hold a weights file cut into backbone and head, both without their prefix; `rest` belongs to neither."""

    layout: Layout
    backbone: dict[str, Tensor]
    head: dict[str, Tensor]
    rest: dict[str, Tensor]


def no_weights(path: str | Path) -> WeightsError:
    """Return the error about weights that are not there."""
    return WeightsError(f"{path}: no such weights file; check model.weight, or weights in the model configuration")


def read_state_dict(path: str | Path, part: str | None = None) -> dict[str, Tensor]:
    """Read a `.safetensors` file or a torch file (weights only, onto the CPU) as a flat dict of tensors.

    Unwraps {"state_dict": ...} and its like; of a model and its average the average is taken, unless `part` names an
    entry. Drops the `module.` and `_orig_mod.` of DataParallel and torch.compile.
    Raises WeightsError for a file that is no weights file, is cut off, or would run code.
    """
    return _read(Path(path), part)[0]


def _read_to_load(path: str | Path, part: str | None) -> dict[str, Tensor]:
    """Read a file whose weights a network is about to take; log which of two halves they are."""
    state, choices = _read(Path(path), part)
    for choice in choices:
        logger.info(f"{path}: {choice}")
    return state


def _read(path: Path, part: str | None) -> tuple[dict[str, Tensor], list[str]]:
    """Return the weights, and in words what was chosen of two halves."""
    if not path.is_file():
        raise no_weights(path)
    with reading(path, "cannot be read as weights", "the file is damaged or no state_dict", WeightsError):
        content = _read_safetensors(path) if path.suffix.lower() == ".safetensors" else _read_torch(path)
        content, choices = _unwrap(content, path, part)
        return _state_dict(path, content), choices


def _state_dict(path: Path, content: object) -> dict[str, Tensor]:
    if not isinstance(content, Mapping) or not content:
        raise WeightsError(f"{path}: holds {_kind(content)}, not a state_dict; save model.state_dict() instead")
    for key, value in content.items():
        if not isinstance(key, str) or not isinstance(value, Tensor):
            raise WeightsError(
                f"{path}: entry {shown(key)} is {_kind(value)}, not a tensor; save model.state_dict() and nothing else"
            )
    return _strip_wrappers({key: value.dequantize() if value.is_quantized else value for key, value in content.items()})


def _unwrap(content: object, path: Path, part: str | None) -> tuple[object, list[str]]:
    """Return the innermost state_dict of a file, by the names of the entries, and what was chosen of two halves."""
    found, choices = part is None, []
    for _ in range(_WRAPPERS_AT_MOST):  # a file can wrap itself
        if not isinstance(content, Mapping):
            break
        entries = [key for key, value in content.items() if isinstance(value, Mapping) and value]
        if part is None and all(f"state_dict_{name}" in entries for name in SWINFACE):
            parts = ((name, content[f"state_dict_{name}"].items()) for name in SWINFACE)
            return {f"{name}.{key}": value for name, items in parts for key, value in items}, choices
        average, model = ([key for key in known if key in entries] for known in (AVERAGES, MODELS))
        if not found and part in entries:
            taken, found = part, True
        elif average or model:
            taken = (average or model)[0]
            if average and model:
                choices.append(f"holds {model[0]!r} and {taken!r}; took {taken!r}, the other by part: {model[0]}")
        else:
            break
        content = content[taken]
    if not found:
        raise WeightsError(f"{path}: holds no entry {part!r}; name another in part, or none")
    return content, choices


def split_state(state: Mapping[str, Tensor], backbone: nn.Module) -> SplitState:
    """Cut a state_dict by the layout, and the prefix before all keys, that name most of `backbone`'s own keys."""
    own = backbone.state_dict().keys()
    splits = [split for layout in LAYOUTS for split in cuts(state, layout)]
    return max(splits, key=lambda split: (len(own & split.backbone.keys()), -len(split.rest), len(split.head)))


def cuts(state: Mapping[str, Tensor], layout: Layout) -> Iterator[SplitState]:
    """Yield a state_dict cut by a layout: as it is, then without the prefixes that stand before all keys."""
    prefix = ""
    while True:
        full = Layout(
            layout.name,
            prefix + layout.backbone,
            layout.head and prefix + layout.head,
            tuple(prefix + ignored for ignored in layout.ignored),
        )
        yield _split(state, full)
        more = next((p for p in PREFIXES if all(key.startswith(prefix + p) for key in state)), None)
        if more is None or not state:
            return
        prefix += more


def load_backbone(backbone: nn.Module, path: str | Path, part: str | None = None) -> None:
    """Load the backbone part of any known layout, strictly; a quality head in the file is left aside."""
    split = split_state(_read_to_load(path, part), backbone)
    wrong = _differences(backbone, split.backbone, split.layout.backbone) + _unexpected(split.rest)
    _finish(path, wrong, [(backbone, split.backbone)])


def load_student(student: nn.Module, path: str | Path, part: str | None = None) -> None:
    """Load backbone and quality head of any known layout, strictly.

    `student` has `feature_extractor` and `quality_head`. DifFIQA(R) and CR-FIQA weights need a LinearHead.
    """
    backbone, head = student.get_submodule("feature_extractor"), student.get_submodule("quality_head")
    split = split_state(_read_to_load(path, part), backbone)
    if not split.head:
        heads = ", ".join(layout.head for layout in LAYOUTS if layout.head)
        raise WeightsError(
            f"{path}: holds no quality head (no key begins with {heads}); name the weights of a trained quality model"
        )
    if split.head.keys() == {"weight", "bias"} and "weight" not in head.state_dict():
        raise WeightsError(
            f"{path}: its quality head is one Linear ({split.layout.name}), the model has {type(head).__name__}; "
            "set model.head.module: model.mlp.LinearHead"
        )
    wrong = _differences(backbone, split.backbone, split.layout.backbone)
    wrong += _differences(head, split.head, split.layout.head) + _unexpected(split.rest)
    _finish(path, wrong, [(backbone, split.backbone), (head, split.head)])


class _Difference(NamedTuple):
    kind: str
    key: str


def _differences(module: nn.Module, state: dict[str, Tensor], prefix: str) -> list[_Difference]:
    own = module.state_dict()
    found = [_Difference("missing", prefix + key) for key in own if key not in state and not _is_counter(key)]
    found += [_Difference("unexpected", prefix + key) for key in state if key not in own]
    for key, tensor in own.items():
        if key in state and state[key].shape != tensor.shape:
            shapes = f"{prefix}{key} {tuple(state[key].shape)} for {tuple(tensor.shape)}"
            found.append(_Difference("of another shape", shapes))
        elif key in state and tensor.is_floating_point() and not state[key].is_floating_point():
            found.append(_Difference("of whole numbers without a scale", f"{prefix}{key} {state[key].dtype}"))
    return found


def _unexpected(rest: dict[str, Tensor]) -> list[_Difference]:
    return [_Difference("unexpected", key) for key in rest]


def _is_counter(key: str) -> bool:
    """Tell the batch counters, which weights saved by old versions lack and nothing here reads."""
    return key.endswith("num_batches_tracked")


def _finish(path: str | Path, wrong: list[_Difference], parts: list[tuple[nn.Module, dict[str, Tensor]]]) -> None:
    if wrong:
        groups = []
        for kind in ("missing", "unexpected", "of another shape", "of whole numbers without a scale"):
            keys = [difference.key for difference in wrong if difference.kind == kind]
            if keys:
                more = ", ..." if len(keys) > 3 else ""
                groups.append(f"{len(keys)} {'key' if len(keys) == 1 else 'keys'} {kind} ({', '.join(keys[:3])}{more})")
        raise WeightsError(f"{path}: does not fit the model: {'; '.join(groups)}; name the network it was made for")
    for _, state in parts:
        for key, tensor in state.items():
            if tensor.is_floating_point() and not torch.isfinite(tensor).all():
                raise WeightsError(f"{path}: {key} holds NaN or infinity; the training that wrote it went wrong")
    for module, state in parts:
        counters = {key: value for key, value in module.state_dict().items() if _is_counter(key)}
        module.load_state_dict({**counters, **state}, strict=True)


def _split(state: Mapping[str, Tensor], layout: Layout) -> SplitState:
    split = SplitState(layout, {}, {}, {})
    for key, tensor in state.items():
        if layout.head and key.startswith(layout.head):
            split.head[key.removeprefix(layout.head)] = tensor
        elif key.startswith(layout.backbone):
            split.backbone[key.removeprefix(layout.backbone)] = tensor
        elif not key.startswith(layout.ignored):
            split.rest[key] = tensor
    return split


def _strip_wrappers(state: dict[str, Tensor]) -> dict[str, Tensor]:
    state = {key.replace("_orig_mod.", ""): tensor for key, tensor in state.items()}
    if all(key.startswith("module.") or key == "n_averaged" for key in state):  # n_averaged: torch's AveragedModel
        state.pop("n_averaged", None)
    while state and all(key.startswith("module.") for key in state):
        state = {key.removeprefix("module."): tensor for key, tensor in state.items()}
    return state


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    with reading(path, "not a readable safetensors file", "fetch it again", WeightsError):
        return load_file(path, device="cpu")


def _read_torch(path: Path):
    with open(path, "rb") as stream:
        head = stream.read(64).lstrip().lower()
    if not head:
        raise WeightsError(f"{path}: the file is empty; fetch it again")
    if head.startswith(b"<"):
        raise WeightsError(f"{path}: is a web page, not weights; fetch the file itself")
    if head.startswith(b"version https://git-lfs"):
        raise WeightsError(f"{path}: is a Git LFS pointer, not weights; fetch the file itself with git lfs pull")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # of pickles by other programs; they are judged by content
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        if found := re.search(r"GLOBAL ([\w.]+)", str(error)):
            raise WeightsError(
                f"{path}: asks to run {found[1]} on loading, which is refused; weights must be a plain state_dict"
            ) from error
        raise WeightsError(
            f"{path}: not a weights file of torch.save, or a damaged one; fetch it again, or name another"
        ) from error


def _kind(value: object) -> str:
    name = type(value).__name__
    return f"{'an' if name[0].lower() in 'aeiou' else 'a'} {name}"
