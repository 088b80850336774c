"""What the methods and recognition models say of each image, and which pairs have every number they need."""

import logging
from collections.abc import Iterator, Mapping
from typing import NamedTuple

import numpy as np

from evaluation.pairs.sets import PairSet
from evaluation.protocol.embeddings import ImageModel
from evaluation.protocol.face_set import FaceSet
from evaluation.protocol.passes import OUTSIDE, CropPass, Measured
from evaluation.protocol.views import View
from utils.config.evaluate import EvaluationSection
from utils.errors import DataError
from utils.present import present

logger = logging.getLogger("evaluate")


class Models(NamedTuple):
    """Hold the networks that run here, by name."""

    methods: Mapping[str, ImageModel]
    recognisers: Mapping[str, ImageModel]


class ImageNumbers(NamedTuple):
    """Hold numbers per name of the pairs, by quality method and by recognition model."""

    quality: dict[str, Measured]
    embedding: dict[str, Measured]
    comparison: dict[str, np.ndarray]
    """Scores of each pair, (P,), of recognition models that are not known by embeddings."""
    outside: np.ndarray | None = None
    """Share of each crop whose source lies outside its image, NaN where there is no crop."""


def complete(
    faces: FaceSet, numbers: ImageNumbers, section: EvaluationSection, pairs: PairSet | None = None
) -> tuple[np.ndarray, list[str]]:
    """Return which pairs, (P,) bool, have every number they need, and remarks on what is missing.

    A pair needs both embeddings, and the scores if it can be discarded: with a fixed threshold only mated pairs are,
    so that a method that cannot score everyone (SDD-FIQA) leaves the threshold where it is.
    Raises DataError naming the first image that lacks what it needs, unless on_missing is skip.
    """
    pairs = pairs or faces.pairs
    every = np.ones(len(pairs.mated), dtype=bool)
    discarded = pairs.mated if section.rule == "fixed_threshold" else every
    keep, remarks = every.copy(), []
    named = [(f"score of {name}", one, discarded) for name, one in numbers.quality.items()]
    named += [(f"embedding of {name}", one, every) for name, one in numbers.embedding.items()]
    for what, one, needed in named:
        broken = np.asarray(np.isnan(one.values.reshape(len(one.values), -1)).any(axis=1))
        used = pairs.subset(needed).used()
        bad = used[broken[used]]
        if len(bad):
            keep &= ~(needed & (broken[pairs.first] | broken[pairs.second]))
            text = f"datasets.{faces.name}: {len(bad)} of {len(used)} images have no {what}, {_first(pairs, one, bad)}"
            if section.on_missing == "error" or len(bad) == len(used):
                raise DataError(f"{text}; mend the names (key_root) or files, or set evaluation.on_missing: skip")
            remarks.append(text)
        rest = np.setdiff1d(pairs.used(), used)
        rest = rest[broken[rest]]
        if len(rest):
            remarks.append(
                f"datasets.{faces.name}: {len(rest)} images have no {what}, {_first(pairs, one, rest)}; "
                "they are in non-mated pairs only, which need none"
            )
    for absent, remark in _not_compared(faces, pairs, numbers.comparison, section):
        keep &= ~absent
        remarks.append(remark)
    if not keep.all():
        lost = ~keep
        mated = int(lost[pairs.mated].sum())
        remarks.append(f"datasets.{faces.name}: left out {mated} mated and {int(lost.sum()) - mated} non-mated pairs")
    for remark in remarks:
        logger.info(remark)
    return keep, remarks


def _not_compared(
    faces: FaceSet, pairs: PairSet, values: Mapping[str, np.ndarray], section: EvaluationSection
) -> Iterator[tuple[np.ndarray, str]]:
    """Yield which pairs, (P,) bool, have no comparison score of a model, and a remark; DataError as in `complete`."""
    for name, scores in values.items():
        bad = np.isnan(scores)
        if bad.any():
            row = int(np.argmax(bad))
            first = f"{pairs.names[pairs.first[row]]!r} and {pairs.names[pairs.second[row]]!r}"
            text = f"datasets.{faces.name}: {bad.sum()} of {len(bad)} pairs have no comparison of {name}, first {first}"
            if section.on_missing == "error" or bad.all():
                raise DataError(f"{text}; mend the names (key_root) or files, or set evaluation.on_missing: skip")
            yield bad, text


def _first(pairs: PairSet, measured: Measured, rows: np.ndarray) -> str:
    reason = measured.reasons.get(int(rows[0]))
    return f"first {pairs.names[rows[0]]!r}" + (f" ({reason})" if reason else "")


def averaged(crops: CropPass, view: View, name: str, model: ImageModel) -> Measured:
    """Return the mean of a method's numbers over its looks at each crop; none where one of them gave none."""
    how = present(model.averaging)
    looks = [crops(view.look_at(how, number), {name: model})[name] for number in range(1, how.count + 1)]
    reasons = {row: why for look in looks for row, why in look.reasons.items()}
    return Measured(np.mean([look.values for look in looks], axis=0), reasons)


def run_models(crops: CropPass, view: View, models: Models) -> ImageNumbers:
    """Run everything over the same crops, and methods that average over several looks over each of these."""
    methods = {f"quality-{name}": model for name, model in models.methods.items()}
    recognisers = {f"recognition-{name}": model for name, model in models.recognisers.items()}
    found = crops(view, {name: model for name, model in methods.items() if model.averaging is None} | recognisers)
    for name, model in methods.items():
        if model.averaging is not None:
            found[name] = averaged(crops, view, name, model)
    return ImageNumbers(
        {name: found[f"quality-{name}"] for name in models.methods},
        {name: found[f"recognition-{name}"] for name in models.recognisers},
        {},
        found[OUTSIDE].values,
    )
