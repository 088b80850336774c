"""What of the paper's experiment a data folder allows: labels, trainings and the evaluation, as commands in a row."""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

from evaluation.protocol.views import ALIGNED, misaligned_views
from jobs.experiment.config import NetworkFile, PaperConfig, PaperSource, RecipeConfig, Wanted
from jobs.experiment.steps import ROOT, CommandStep, merged, write_yaml
from utils.config.evaluating.misalignment import MisalignmentConfig
from utils.present import present

TRAIN = ROOT / "configs/paper/train.yaml"
COSFACE = "CosFace"
"""Name of the backbone among the recognition models."""


class Labels(NamedTuple):
    """Where the labels of an X are, and what makes them where they are not given."""

    path: Path
    step: CommandStep | None


@dataclass
class Paper:
    """One data folder, seen through paper.yaml; `missing` says what it lacks and where that comes from."""

    cfg: PaperConfig
    missing: list[str] = field(default_factory=list)

    def __post_init__(self):
        self.data = Path(self.cfg.base.data).absolute()
        self.out = Path(self.cfg.base.save_path).absolute()
        training = self.cfg.training
        self.images = self._find(training.images, "training images")
        self.landmarks = self._find(training.landmarks, "their landmarks")
        self.backbone = self._find(self.cfg.backbone.weights, "backbone")
        self.labels = dict(self._labels())

    def steps(self) -> list[CommandStep]:
        """Return the commands that this folder allows, in order."""
        trainings = self.trainings
        labels = [one.step for one in self.labels.values() if one.step is not None]
        evaluation = self.evaluation()
        return [*(labels if trainings else []), *trainings.values(), *([evaluation] if evaluation else [])]

    def _find(self, wanted: Wanted, what: str) -> Path | None:
        """Return the first of the files that is there; note what is missing where `what` names it."""
        found = next((self.data / file for file in wanted.files if (self.data / file).exists()), None)
        if found is None and what:
            self.missing.append(f"{what}: {' or '.join(wanted.files)}: {wanted.origin}")
        return found

    def _module(self, path: Path | None = None) -> dict[str, Any]:
        """Return the class of a network where the file cannot say it: the backbone's, or the small one."""
        if path is not None and path.suffix == ".onnx":
            return {}
        return {"module": self.cfg.small.backbone.module if self.cfg.base.small else self.cfg.backbone.module}

    def _network(self, name: str, weights: Path | None, **sections: Any) -> Path:
        """Write a model_config.yaml; return its path."""
        features = {**self._module(), "weights": weights and str(weights), "params": {}}
        return write_yaml(self.out / f"configs/{name}.yaml", {"features": features, **sections})

    def source_config(self, x: str, source: PaperSource) -> Path | None:
        """Write the label_config.yaml of an X whose network is there, to label and to score the test sets."""
        own = self._find(source.weights, f"network of {x}") if source.weights else None
        weights = own if source.weights else self.backbone
        if weights is None:
            return None
        features = None if own else weights
        network = self._network(f"network_{_slug(x)}", features, head={"module": source.head})
        images = {"loc": str(self.images or self.data)}
        if self.landmarks:
            images |= {"input": "landmarks", "landmarks": str(self.landmarks), "on_missing": "skip"}
        content = {
            "base": {"save_path": str(self.out / f"labels/{_slug(x)}"), "device": self.cfg.base.device},
            "dataset": images,
            "model": {"config": str(network), "weight": own and str(own)},
        }
        content = merged(content, source.label)
        if self.cfg.base.small:
            content = merged(content, self.cfg.small.labelling)
        return write_yaml(self.out / f"configs/label_{_slug(x)}.yaml", content)

    @cached_property
    def source_configs(self) -> dict[str, Path]:
        """Return the configuration of every X whose network is there."""
        found = {x: self.source_config(x, source) for x, source in self.cfg.sources.items()}
        return {x: path for x, path in found.items() if path}

    def _labels(self) -> Iterator[tuple[str, Labels]]:
        for x, source in self.cfg.sources.items():
            given = self._find(source.labels, "" if x in self.source_configs else f"labels of {x}")
            if given:
                yield x, Labels(given, None)
            elif x in self.source_configs and self.images and self.landmarks:
                folder, config = self.out / f"labels/{_slug(x)}", self.source_configs[x]
                network = self._find(source.weights or self.cfg.backbone.weights, "")
                step = CommandStep(
                    f"label the training faces by {x}", "label.py", config, folder, {}, [present(network)]
                )
                yield x, Labels(folder / "labels.csv", step)

    @cached_property
    def trainings(self) -> dict[str, CommandStep]:
        """Return the trainings by the name of the method that comes of each: recipe(X)."""
        if not (self.images and self.landmarks and self.backbone and self.labels):
            return {}
        recipes = {f"{name}({x})": (x, recipe) for x in self.labels for name, recipe in self.cfg.recipes.items()}
        changes = self.cfg.single_changes
        x = changes.of if changes.of in self.labels else next(iter(self.labels))
        recipes |= {f"{name}({x})": (x, recipe) for name, recipe in changes.recipes.items()}
        return {name: self._training(name, x, recipe) for name, (x, recipe) in recipes.items()}

    def _training(self, name: str, x: str, recipe: RecipeConfig) -> CommandStep:
        base, labels = self.cfg.base, self.labels[x].path
        network, changes = self.trained_config(), dict[str, Any]()
        if recipe.initialisation == "random":
            teacher = {**self._module(), "weights": str(self.backbone), "params": {}}
            network = self._network("student_random", None, teacher=teacher)
            changes["base.allow_random_init"] = 1
        changes |= {
            "base.device": base.device,
            "base.seed": base.seed,
            "base.verbose": int(base.verbose),
            "dataset.image_location": str(self.images),
            "dataset.landms_location": str(self.landmarks),
            "dataset.quality_location": str(labels),
            "dataloader.train.params.num_workers": base.num_workers,
            "model.config": str(network),
            **(self.cfg.small.training if base.small else {}),
            **recipe.changes,
        }
        inputs = [labels, present(self.landmarks), present(self.backbone), network]
        return CommandStep(f"train {name}", "train_main.py", TRAIN, self.out / f"train/{_slug(name)}", changes, inputs)

    def trained_config(self) -> Path:
        """Write the model_config.yaml of the trained networks; return its path."""
        return self._network("student", self.backbone)

    def evaluation(self) -> CommandStep | None:
        """Return the evaluation of all that is trained or given; None without sets, recognition or methods."""
        content = merged(self.cfg.evaluation, self.cfg.small.evaluation if self.cfg.base.small else {})
        recognition, given = self._recognition(), self._given(content)
        running = self._running()
        datasets = {
            name: section
            for name, section in self._datasets().items()
            if running or any(name in files for files in given.values())
        }
        given = {method: {s: f for s, f in files.items() if s in datasets} for method, files in given.items()}
        scores = {**running, **{method: files for method, files in given.items() if files}}
        if not (datasets and recognition and scores):
            return None
        base = {"save_path": str(self.out / "evaluation"), "device": self.cfg.base.device, "seed": self.cfg.base.seed}
        sections = {"base": base, "datasets": datasets, "recognition": recognition, "scores": scores}
        loader = {"params": {"batch_size": 64, "num_workers": 0 if self.cfg.base.small else self.cfg.base.num_workers}}
        config = write_yaml(self.out / "configs/evaluate.yaml", merged(content, {**sections, "dataloader": loader}))
        named = [
            one for section in (*datasets.values(), *recognition.values(), *scores.values()) for one in _paths(section)
        ]
        inputs = [Path(one) for one in dict.fromkeys(named)]
        return CommandStep("compare", "evaluate.py", config, self.out / "evaluation", {}, inputs)

    def _datasets(self) -> dict[str, Any]:
        detector = self._find(self.cfg.detector, "")
        found = {}
        for name, one in self.cfg.datasets.items():
            absent = [file for file in (one.root, one.pairs) if not (self.data / file).exists()]
            section: dict[str, Any] = {"root": str(self.data / one.root), "pairs": str(self.data / one.pairs)}
            if one.landmarks is not None and (self.data / one.landmarks).exists():
                section["landmarks"] = str(self.data / one.landmarks)
            elif one.landmarks is not None and detector is not None:
                section["detector"] = f"yunet:{detector}"
            elif one.landmarks is not None:
                absent.append(f"{one.landmarks} (or {self.cfg.detector.files[0]})")
            if absent:
                self.missing.append(f"{name}: {', '.join(absent)}: {one.origin}")
            else:
                found[name] = {**section, "format": one.format, **one.keys}
        return found

    def _recognition(self) -> dict[str, Any]:
        found = {}
        for name, one in self.cfg.recognition.items():
            if path := self._find(one.weights, name):
                found[name] = {"weights": str(path), **self._keys(path, one)}
        if self.backbone:
            found[COSFACE] = {"weights": str(self.backbone), **self._module()}
        return found

    def _keys(self, path: Path, network: NetworkFile) -> dict[str, Any]:
        """Return the further keys of a network; in a trial those that are no ONNX are all the small one."""
        return self._module(path) if self.cfg.base.small and path.suffix != ".onnx" else network.keys

    def _running(self) -> dict[str, Any]:
        """Return the methods that run in the evaluation."""
        scores: dict[str, Any] = {x: {"source": str(path)} for x, path in self.source_configs.items()}
        for name, one in self.cfg.methods.items():
            if path := self._find(one.weights, name):
                small = self.cfg.base.small and path.suffix != ".onnx"
                own = {"config": str(self._network("small", None)), "quality": "length"} if small else one.keys
                scores[name] = {"weights": str(path), **own}
        for name, step in self.trainings.items():
            weights = step.folder / "aikd-best.pth"
            scores[name] = {"weights": str(weights), "config": str(self.trained_config())}
        return scores

    def _given(self, content: dict[str, Any]) -> dict[str, dict[str, dict[str, str]]]:
        """Return the score files METHOD/SET/VIEW.csv of the data folder, by method, data set and view."""
        misalignment = MisalignmentConfig.model_validate(content["misalignment"])
        found: dict[str, dict[str, dict[str, str]]] = {}
        for folder in sorted((self.data / "scores").glob("*/*/")):
            views = [ALIGNED, *(view for group in misaligned_views(misalignment, folder.name) for view in group)]
            files = {one.key: str(folder / f"{one.key}.csv") for one in views if (folder / f"{one.key}.csv").is_file()}
            if ALIGNED.key in files and folder.name in self.cfg.datasets:
                found.setdefault(folder.parent.name, {})[folder.name] = files
        return found


def _paths(section: dict[str, Any]) -> Iterator[str]:
    """Yield the files that a section of the evaluation names."""
    for value in section.values():
        if isinstance(value, dict):
            yield from _paths(value)
        elif isinstance(value, str) and value.startswith("/"):
            yield value


def _slug(name: str) -> str:
    """Return a name as part of a path: letters, digits and _."""
    return re.sub(r"[^a-z0-9]+", "_", name.lower()).strip("_")
