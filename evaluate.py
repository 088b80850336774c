"""Evaluate quality scores by EDC and pAUC: python evaluate.py -c configs/evaluate_config.yaml [key=value ...].

With thresholds.scores=FILE it only says what the scores of that file mean.
"""

import contextlib
import logging
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from data.tables.scores import read_scores
from evaluation.protocol.conditions import Protocol
from evaluation.protocol.embeddings import Recogniser, read_embeddings
from evaluation.protocol.face_set import FaceSet, open_views, require_usual_images
from evaluation.protocol.methods import describe_method
from evaluation.protocol.numbers import Models
from evaluation.protocol.views import misaligned_views
from evaluation.report.meaning import percentile_table, threshold_table
from evaluation.report.output import Output
from jobs.landmarks import with_found_faces
from model.frozen.allocator import keep_memory
from model.frozen.shared import SharedLoader
from model.registry import NetworkBuilder
from utils import cli
from utils.config import StrictModel, is_default, load_config
from utils.config.evaluate import EvaluateConfig, ThresholdConfig
from utils.config.evaluating.misalignment import ALIGNED
from utils.errors import ConfigError, DataError
from utils.files import FolderLock, make_folder
from utils.present import present
from utils.training.precision import pick_device

logger = logging.getLogger("evaluate")


def main(argv: Sequence[str] | None = None) -> int:
    """Read the configuration, check everything, measure, write tables, pictures and the report."""
    command = cli.parse_command(__doc__, argv)
    cfg = load_config(EvaluateConfig, command.config, command.overrides)
    level = logging.INFO if cfg.base.verbose else logging.ERROR
    logging.basicConfig(level=level, format="%(message)s", stream=sys.stderr)
    if cfg.thresholds.scores is not None:
        sys.stdout.write(score_meaning(cfg.thresholds))
        return 0
    require_files(cfg)
    for line in without_effect(cfg):
        logger.info(line)
    models = build_models(cfg, command)
    located = with_found_faces(cfg, command.allowed)
    sets = [open_set(located, name) for name in cfg.datasets]
    folder = make_folder(cfg.base.save_path, "base.save_path")
    with contextlib.closing(FolderLock(folder, folder)):
        protocol, output = Protocol(located, models, folder), Output(folder, cfg)
        for faces in sets:
            output.add(protocol.evaluate(faces))
        report = output.finish()
    if cfg.base.verbose:
        sys.stdout.write(report)
    return 0


def score_meaning(cfg: ThresholdConfig) -> str:
    """Return, for a score file, the threshold of each wanted discard rate and the percentiles."""
    path = present(cfg.scores)
    table = read_scores(path, cfg)
    for remark in table.remarks:
        logger.info(f"{path}: {remark}")
    values = table.values * (1 if cfg.higher_is_better else -1)
    if not len(values):
        raise DataError(f"{cfg.scores}: holds no score; name another file in thresholds.scores")
    name = Path(path).name + ("" if cfg.higher_is_better else ", negated so that higher is better")
    found = threshold_table(name, values, cfg.discard), percentile_table(name, values)
    return "\n".join(table.markdown() for table in found)


def without_effect(cfg: EvaluateConfig) -> list[str]:
    """Return one line for each setting that is accepted and has no effect."""
    lines = [
        f"{place}.{key}: without effect; it is about {subject}"
        for place, section, keys, subject in _unread(cfg)
        for key in keys
        if not is_default(section, key)
    ]
    return lines + [f"{place}: without effect; misalignment asks for no such view" for place in _unseen_views(cfg)]


def _unseen_views(cfg: EvaluateConfig) -> Iterator[str]:
    """Yield the keys of files of views that are not evaluated."""
    known = {
        name: {ALIGNED, *(view.key for group in misaligned_views(cfg.misalignment, name) for view in group)}
        for name in cfg.datasets
    }
    for place, files in [
        *((f"recognition.{name}.embeddings", one.embeddings) for name, one in cfg.recognition.items()),
        *((f"recognition.{name}.comparisons", one.comparisons) for name, one in cfg.recognition.items()),
        *((f"scores.{name}", one.files) for name, one in cfg.scores.items()),
    ]:
        for dataset, views in files.items():
            yield from (f"{place}.{dataset}.{view}" for view in views if view not in known[dataset])


def _unread(cfg: EvaluateConfig) -> Iterator[tuple[str, StrictModel, tuple[str, ...], str]]:
    """Yield (place, section, keys, what they are about) of the keys that nobody reads."""
    for name, scores in cfg.scores.items():
        if scores.runs:
            yield f"scores.{name}", scores, ("higher_is_better",), "score files"
    for name, model in cfg.recognition.items():
        if not model.runs:
            keys = ("module", "params", "channels", "flip")
            yield f"recognition.{name}", model, keys, "weights, which are not named"
    for name, dataset in cfg.datasets.items():
        if not dataset.draws_pairs:
            yield f"datasets.{name}", dataset, ("mated_per_identity", "non_mated"), "pairs that are drawn"


def require_files(cfg: EvaluateConfig) -> None:
    """Refuse a configuration that names a file which is not there."""
    for place, path in _named_files(cfg):
        found = path is not None and (Path(path).is_file() or (_is_folder_allowed(place) and Path(path).is_dir()))
        if not found:
            raise ConfigError(f"{place}: {path}: no such file; check the path")


def _is_folder_allowed(place: str) -> bool:
    """Tell whether a key may name a folder: embeddings may be one file an image."""
    return place.startswith("recognition.") and ".embeddings" in place


def _named_files(cfg: EvaluateConfig) -> Iterator[tuple[str, str | None]]:
    for name, one in cfg.recognition.items():
        yield from _files_of(f"recognition.{name}.embeddings", one.embeddings)
        for dataset, views in one.comparisons.items():
            yield from (
                (f"recognition.{name}.comparisons.{dataset}", path) for files in views.values() for path in files
            )
        yield from ((f"recognition.{name}.weights", path) for path in [one.weights] if path)
    for name, one in cfg.scores.items():
        yield from _files_of(f"scores.{name}", one.files)
        yield from ((f"scores.{name}.weights", path) for path in [one.weights] if path)
    for name, one in cfg.datasets.items():
        yield from ((f"datasets.{name}.landmarks", path) for path in [one.landmarks] if path)
        for key in ("metadata", "reference", "probe"):
            yield from ((f"datasets.{name}.{key}", path) for path in [getattr(one, key)] if path)
    if cfg.misalignment is not None:
        yield from ((f"misalignment.second_landmarks.{k}", v) for k, v in cfg.misalignment.second_landmarks.items())
        yield from ((f"misalignment.boxes.{k}", v) for k, v in cfg.misalignment.boxes.items())


def _files_of(place: str, files: Mapping[str, Mapping[str, str]]) -> Iterator[tuple[str, str]]:
    """Yield (key, path) of the files of each view of each data set."""
    for dataset, views in files.items():
        for view, path in views.items():
            yield f"{place}.{dataset}" + ("" if view == ALIGNED else f".{view}"), path


def build_models(cfg: EvaluateConfig, command: cli.Command) -> Models:
    """Build what runs here, weights loaded; methods of the same trunk share one network."""
    precision = cfg.base.precision
    recognisers = {name: Recogniser(one, precision) for name, one in cfg.recognition.items() if one.runs}
    methods = {name: describe_method(one, command.config, precision) for name, one in cfg.scores.items() if one.runs}
    running = [*recognisers.values(), *methods.values()]
    if running:
        specs = [model.spec for model in running]
        device = pick_device(cfg.base.device)
        if device.type == "cpu":
            keep_memory()
        loader = SharedLoader(NetworkBuilder(command.allowed), device, specs)
        for model in running:
            model.load(loader)
        for remark in dict.fromkeys(remark for model in running for remark in model.remarks):
            if remark:
                logger.info(remark)
    return Models(methods, recognisers)


def open_set(cfg: EvaluateConfig, name: str) -> FaceSet:
    """Open one data set; without a root, identity folders are read off the names of its embeddings."""
    section = cfg.datasets[name]
    stored = [one.embeddings[name] for one in cfg.recognition.values() if name in one.embeddings]
    by_names = section.format == "identities" and section.root is None and stored
    faces = open_views(cfg, name, read_embeddings(stored[0][ALIGNED]).names if by_names else None)
    images = faces.crops is not None or faces.pairs.images is not None
    if not any(name in one.files or (one.runs and images) for one in cfg.scores.values()):
        raise ConfigError(f"datasets.{name}: no method scores it; name a score file in scores, or its root")
    compared = any(name in one.comparisons for one in cfg.recognition.values())
    if not stored and not compared and not (images and any(one.runs for one in cfg.recognition.values())):
        raise ConfigError(
            f"datasets.{name}: it has no embeddings or comparisons; name a file in recognition, or its root"
        )
    runs = any(one.runs for one in (*cfg.recognition.values(), *cfg.scores.values()))
    if images and runs and section.detector is None:  # what was found in these very images is of no other version
        require_usual_images(faces, section)
    return faces


if __name__ == "__main__":
    sys.exit(cli.run(main))
