"""The model card: what a shared student is, read off the run that made it. Paths are cut to file names."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePath
from typing import Any

import yaml

from utils.contract import sidecar
from utils.errors import ConfigError

UNKNOWN = "not recorded"


@dataclass(frozen=True)
class RunRecord:
    """Hold what a training run wrote beside its weights; empty where it wrote nothing."""

    settings: Mapping[str, Any] = field(default_factory=dict)
    """config.yaml."""
    facts: Mapping[str, Any] = field(default_factory=dict)
    """The sidecar file of the weights."""
    labels: Mapping[str, Any] = field(default_factory=dict)
    """run.json beside the label file, as label.py and inference.py write it."""

    @classmethod
    def beside(cls, weight: str | Path) -> "RunRecord":
        """Read config.yaml and the contract file beside `weights`, and run.json beside the labels."""
        settings = _mapping(Path(weight).parent / "config.yaml")
        location = (settings.get("dataset") or {}).get("quality_location")
        labels = _mapping(Path(location).parent / "run.json") if location else {}
        return cls(settings, _mapping(sidecar(weight)), labels)

    @property
    def method(self) -> str:
        """Return the training method, aikd where nothing says otherwise."""
        return self.facts.get("method") or (self.settings.get("base") or {}).get("method") or "aikd"

    @property
    def distilled(self) -> bool:
        """Tell whether it learned from labels and a teacher; who learns from identities records their number."""
        return "identities" not in self.facts


@dataclass(frozen=True)
class Export:
    """Hold what was exported."""

    name: str
    """Stem of the file names."""
    record: Mapping[str, Any]
    """The metadata of the files."""
    method: str
    """Name of the training method, for readers."""
    files: Mapping[str, str]
    """File name -> SHA-256."""
    parameters: int
    """Of the student."""
    parity: Mapping[str, float] | None = None
    """Largest differences between ONNX and torch; None without ONNX."""


def model_card(run: RunRecord, export: Export, licence: str | None, notes: str | None) -> str:
    """Return README.md of the exported folder."""
    sections = [
        f"# {export.name}: face image quality by {export.method}",
        f"One forward pass on an aligned {export.record['contract']['size_px']} px face crop gives a quality, higher = "
        "better, unbounded, and an embedding. Qualities of different models cannot be compared by value.",
        "## Files\n\n" + _table(("file", "SHA-256"), [(f"`{name}`", f"`{sha}`") for name, sha in export.files.items()])
        + f"\n\nExported from weights with SHA-256 `{export.record['weights_sha256']}`; "
        f"{export.parameters:,} parameters.{_parity(export.parity)}",
        "## Use\n\n```\n" + "\n".join(_commands(export)) + "\n```",
        "## Preprocessing contract\n\n" + _table(("entry", "value"), export.record["contract"].items())
        + "\n\nThe ONNX file takes uint8 RGB crops (B, size, size, 3) as `crops`: scaling is inside.",
        "## Recipe\n\n" + _table(("setting", "value"), _recipe(run, export)),
        "## Data\n\n" + _table(("fact", "value"), _data(run)),
        "## Result on the held-out images\n\n" + _table(("measure", "value"), _metrics(run)),
        "## Licence\n\n" + _licence(run, licence),
    ]  # fmt: skip
    return "\n\n".join([*sections, *([f"## Notes\n\n{notes}"] if notes else [])]) + "\n"


def _mapping(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    try:
        text = path.read_text(encoding="utf-8")
        content = json.loads(text) if path.suffix == ".json" else yaml.safe_load(text)
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise ConfigError(f"{path}: cannot be read for the model card; restore or remove it") from error
    return content if isinstance(content, dict) else {}


def _table(head: tuple[str, str], rows: Iterable[tuple[str, Any]]) -> str:
    lines = [f"| {name} | {_cell(value)} |" for name, value in rows]
    return "\n".join([f"| {head[0]} | {head[1]} |", "|---|---|", *(lines or [f"| {UNKNOWN} | |"])])


def _cell(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, list | tuple):
        return " ".join(map(_cell, value))
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {_cell(inner)}" for key, inner in value.items() if inner is not None)
    return UNKNOWN if value is None else " ".join(str(value).split()).replace("|", "\\|")


def _parity(parity: Mapping[str, float] | None) -> str:
    if parity is None:
        return ""
    return (
        f" ONNX and torch agree on {parity['crops']:.0f} crops: largest difference of a quality "
        f"{parity['quality']:.1e}, of an embedding's entry {parity['embedding']:.1e}."
    )


def _commands(export: Export) -> list[str]:
    package, dot, _ = export.record["model"]["features"]["module"].partition(".")
    foreign = f" --allow-module {package}" if dot and package != "model" else ""
    score = "python inference.py -c configs/inference_config.yaml model.config=null dataset.loc=FOLDER model.weight="
    lines = []
    for name in export.files:
        lines.append(f"{score}{name}{'' if name.endswith('.onnx') else foreign}")
        if name.endswith(".onnx"):
            lines.append(f"python examples/score_onnx.py {name} FOLDER      # needs neither torch nor the repository")
    return lines


def _recipe(run: RunRecord, export: Export) -> list[tuple[str, Any]]:
    student = export.record["model"]
    rows: list[tuple[str, Any]] = [
        ("student", {"backbone": student["features"]["module"], **student["features"]["params"]}),
        ("quality head", {"head": student["head"]["module"], **student["head"]["params"]}),
    ]
    settings = run.settings
    if not settings:
        return [*rows, ("training", None)]
    base, model = settings["base"], settings.get("model_config") or {}
    trained_from, teacher = model.get("features") or {}, model.get("teacher")
    rows.append(("starts from", _file_name(trained_from.get("weights")) or "random weights"))
    if run.distilled:
        taught = teacher or trained_from
        rows.append(("teacher", f"{taught.get('module')}, {_file_name(taught.get('weights')) or 'random weights'}"))
        noise = settings["dataset"]["perturbation"] if settings["dataset"]["misalign"] else {"none": ""}
        rows.append(("landmark perturbation", noise))
    rows += [
        ("steps", run.facts.get("step")),
        ("epochs planned", base["epochs"]),
        ("images per step", settings["dataloader"]["train"]["params"]["batch_size"]),
        ("optimiser", settings["optimizer"]["module"]),
        *((name, group) for name, group in settings["optimizer"].items() if name.startswith("group_") and group),
        ("quality loss", settings["loss"].get("quality")),
        *([("refined labels", refined)] if (refined := settings["loss"].get("refinement")) else []),
        ("BatchNorm", f"optimizer.freeze_bn {settings['optimizer']['freeze_bn']}"),
        ("average", settings["ema"]),
        ("seed", base["seed"]),
    ]
    return rows


def _data(run: RunRecord) -> list[tuple[str, Any]]:
    dataset, labels = run.settings.get("dataset") or {}, run.labels.get("request") or {}
    rows = [
        ("folder", _file_name(dataset.get("image_location"))),
        ("images", run.facts.get("images")),
        ("identities", run.facts.get("identities")),
        ("index SHA-256 (names, landmarks, labels)", run.facts.get("index_sha256")),
    ]
    if run.distilled:
        source = labels.get("source") or {}
        rows += [
            ("label file", _file_name(dataset.get("quality_location"))),
            ("label source", source.get("name") if isinstance(source, Mapping) else source),
            ("label source's weights SHA-256", labels.get("weights_sha256")),
            ("label scaling", run.facts.get("label_scaling")),
        ]
    return [row for row in rows if row[1] is not None or row[0] in ("folder", "images", "label source")]


def _metrics(run: RunRecord) -> list[tuple[str, Any]]:
    return [(name, value) for name, value in (run.facts.get("metrics") or {}).items() if name != "selection"]


def _licence(run: RunRecord, licence: str | None) -> str:
    model = run.settings.get("model_config") or {}
    dataset = run.settings.get("dataset") or {}
    sources = [
        ("weights it started from", (model.get("features") or {}).get("weights")),
        ("teacher", (model.get("teacher") or {}).get("weights")),
        ("training images", dataset.get("image_location")),
        ("quality labels", dataset.get("quality_location")),
    ]
    named = ", ".join(f"{what} (`{_file_name(path)}`)" for what, path in sources if path)
    return (
        f"Weights: {licence or 'none is granted; ask who shares them'}.\n\n"
        "The code is MIT. Trained weights are bound by the terms of what they were made from"
        f"{f': {named}' if named else ''}. Many face data sets, published recognition weights and published quality "
        "methods allow research only; check each before any other use."
    )


def _file_name(path: str | None) -> str | None:
    return PurePath(path).name or path if path else None
