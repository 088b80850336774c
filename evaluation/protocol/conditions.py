"""How one data set is evaluated: aligned crops, then the misalignment protocol, all on the same pairs.

The paper does not say how its misaligned samples were made, so this protocol is defined here. For p > 0 each landmark
coordinate moves by U[-p, p] in pixels of the 112x112 template, mapped back into the source image. The draw belongs to
(seed, image name): the same for every model, order and batch, and for two p the same up to its scale. `quality`
perturbs what the quality methods see; `both` also what the recognition model sees, whose threshold is then set on its
own non-mated scores. A second landmark file stands for another detector. Figures for p are means over seeds.
"""

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np

from data.tables.scores import read_scores
from evaluation.measure.analysis import (
    Agreement,
    Condition,
    Measure,
    PairScores,
    Panel,
    agreement,
    merge_seeds,
)
from evaluation.measure.correlation import Correlation, correlations
from evaluation.measure.nuisance import Nuisance, judge, read_metadata
from evaluation.pairs.sets import PairSet
from evaluation.protocol.embeddings import ImageModel, cosines, read_embeddings, unit_rows
from evaluation.protocol.face_set import FaceSet, with_images
from evaluation.protocol.passes import ALIGNED, CropPass, Measured, View
from utils.config.evaluate import EvaluateConfig, EvaluationSection, MisalignmentConfig
from utils.errors import DataError

logger = logging.getLogger("evaluate")


class Models(NamedTuple):
    """Hold the networks that run here, by name."""

    methods: dict[str, ImageModel]
    recognisers: dict[str, ImageModel]


class Columns(NamedTuple):
    """Hold numbers per name of the pairs, by quality method and by recognition model."""

    quality: dict[str, Measured]
    embedding: dict[str, Measured]


@dataclass
class Outcome:
    """Hold all figures of a data set. panels: seeds merged; seed_panels: one per seed."""

    faces: FaceSet
    pairs: PairSet
    """The pairs that were evaluated."""
    quality: dict[str, np.ndarray]
    """Scores on aligned crops, (N,) over the names of the pairs."""
    panels: list[Panel] = field(default_factory=list)
    seed_panels: list[Panel] = field(default_factory=list)
    agreements: list[Agreement] = field(default_factory=list)
    correlations: list[Correlation] = field(default_factory=list)
    remarks: list[str] = field(default_factory=list)
    nuisance: Nuisance | None = None

    def scored(self, method: str) -> np.ndarray:
        """Return the rows of the names in the evaluated pairs that the method scores, ascending."""
        used = self.pairs.used()
        return used[~np.isnan(self.quality[method][used])]


def misaligned_views(cfg: MisalignmentConfig | None, dataset: str) -> list[list[View]]:
    """Return the conditions beside the aligned one, each as the views that are averaged over."""
    if cfg is None:
        return []
    views = [[View(p, seed) for seed in cfg.seeds] for p in sorted(set(cfg.p)) if p > 0]
    return views + ([[View(None)]] if dataset in cfg.second_landmarks else [])


class Protocol:
    """Evaluate one data set after the other under one configuration."""

    def __init__(self, cfg: EvaluateConfig, models: Models, folder: Path):
        """Keep what networks measure in folder/cache."""
        self.cfg, self.models, self.folder = cfg, models, folder
        self.measure = Measure(cfg.evaluation, cfg.base.seed)

    def evaluate(self, faces: FaceSet) -> Outcome:
        """Measure aligned crops and every misaligned condition."""
        faces, crops = self._crops(faces)
        aligned = self._aligned(faces, crops)
        keep, remarks = complete(faces, aligned, self.cfg.evaluation)
        pairs = faces.pairs.subset(keep)
        outcome = Outcome(faces, pairs, _values(aligned.quality), remarks=remarks)
        outcome.correlations = correlations(faces.name, outcome.quality)
        similarity = {name: _similarity(pairs, one.values) for name, one in aligned.embedding.items()}
        for name, scores in similarity.items():
            place = (faces.name, name, Condition())
            outcome.panels.append(self.measure.panel(place, pairs, PairScores.of(scores, outcome.quality, pairs)))
        outcome.seed_panels += outcome.panels
        if path := self.cfg.datasets[faces.name].metadata:
            metadata = read_metadata(path, faces, pairs.names)
            outcome.nuisance = judge(faces.name, metadata, pairs, outcome.quality, similarity)
        views = misaligned_views(self.cfg.misalignment, faces.name)
        if views and (crops is None or not self.models.methods):
            outcome.remarks.append(
                f"{faces.name}: score files hold no misaligned crops; only aligned ones are evaluated"
            )
            views = []
        for group in views:
            seen = [self._misaligned(outcome, crops, view, similarity) for view in group]
            outcome.seed_panels += [panel for panels in seen for panel in panels]
            outcome.panels += [merge_seeds(same) for same in zip(*seen, strict=True)]
        return outcome

    def _crops(self, faces: FaceSet) -> tuple[FaceSet, CropPass | None]:
        """Open the images, if any network has to run on them."""
        stored = [name for name, one in self.cfg.recognition.items() if faces.name in one.embeddings]
        wanted = self.models.methods or self.models.recognisers.keys() - stored
        if not wanted or (faces.folder is None and faces.pairs.images is None):
            return faces, None
        faces = with_images(faces, self.cfg.datasets[faces.name], self.folder)
        return faces, CropPass(faces, self.folder / "cache", self.cfg.dataloader.params, self.cfg.base.verbose)

    def _aligned(self, faces: FaceSet, crops: CropPass | None) -> Columns:
        """Read what is given as files and compute the rest."""
        quality, embedding = {}, {}
        for name, one in self.cfg.scores.items():
            if faces.name in one.files:
                table = read_scores(one.files[faces.name])
                values = table.values if one.higher_is_better else -table.values
                quality[name] = Measured(faces.column(table.names, values), {})
        for name, one in self.cfg.recognition.items():
            if faces.name in one.embeddings:
                embedding[name] = Measured(faces.column(*read_embeddings(one.embeddings[faces.name])), {})
        if crops is not None:
            computed = {name: one for name, one in self.models.recognisers.items() if name not in embedding}
            found = _run(crops, ALIGNED, Models(self.models.methods, computed))
            quality |= found.quality
            embedding |= found.embedding
        return Columns(
            {name: quality[name] for name in self.cfg.scores if name in quality},
            {name: embedding[name] for name in self.cfg.recognition if name in embedding},
        )

    def _misaligned(
        self, outcome: Outcome, crops: CropPass, view: View, similarity: Mapping[str, np.ndarray]
    ) -> list[Panel]:
        """Measure one view; recognition sees it too where `both` is asked for and the model itself is at hand."""
        kinds = self.cfg.misalignment.apply
        recognisers = self.models.recognisers if "both" in kinds else {}
        found = _run(crops, view, Models(self.models.methods, recognisers))
        keep, remarks = complete(outcome.faces, found, self.cfg.evaluation, outcome.pairs)
        outcome.remarks += [f"{view.label}: {remark}" for remark in remarks]
        pairs, quality = outcome.pairs.subset(keep), _values(found.quality)
        used = pairs.used()
        for method, values in quality.items():
            condition = Condition(view.alignment, view.p, view.seed)
            rows = used[~np.isnan(outcome.quality[method][used] + values[used])]
            figures = agreement(outcome.quality[method][rows], values[rows])
            outcome.agreements.append(Agreement(outcome.faces.name, method, condition, *figures))
        panels = []
        for kind in kinds:
            seen = {name: scores[keep] for name, scores in similarity.items()}
            if kind == "both":
                seen = {name: _similarity(pairs, one.values) for name, one in found.embedding.items()}
            for name, scores in seen.items():
                place = (outcome.faces.name, name, Condition(f"{view.alignment}_{kind}", view.p, view.seed))
                panels.append(self.measure.panel(place, pairs, PairScores.of(scores, quality, pairs)))
        return panels


def complete(
    faces: FaceSet, columns: Columns, section: EvaluationSection, pairs: PairSet | None = None
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
    named = [(f"score of {name}", one, discarded) for name, one in columns.quality.items()]
    named += [(f"embedding of {name}", one, every) for name, one in columns.embedding.items()]
    for what, one, needed in named:
        broken = np.isnan(one.values) if one.values.ndim == 1 else np.isnan(one.values).any(axis=1)
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
    if not keep.all():
        lost = ~keep
        mated = int(lost[pairs.mated].sum())
        remarks.append(f"datasets.{faces.name}: left out {mated} mated and {int(lost.sum()) - mated} non-mated pairs")
    for remark in remarks:
        logger.info(remark)
    return keep, remarks


def _first(pairs: PairSet, measured: Measured, rows: np.ndarray) -> str:
    reason = measured.reasons.get(int(rows[0]))
    return f"first {pairs.names[rows[0]]!r}" + (f" ({reason})" if reason else "")


def _run(crops: CropPass, view: View, models: Models) -> Columns:
    """Run everything over the same crops."""
    methods = {f"quality-{name}": model for name, model in models.methods.items()}
    recognisers = {f"recognition-{name}": model for name, model in models.recognisers.items()}
    found = crops(view, methods | recognisers)
    return Columns(
        {name: found[f"quality-{name}"] for name in models.methods},
        {name: found[f"recognition-{name}"] for name in models.recognisers},
    )


def _similarity(pairs: PairSet, embedding_ND: np.ndarray) -> np.ndarray:
    return cosines(unit_rows(embedding_ND, pairs.names, pairs.used()), pairs.first, pairs.second)


def _values(columns: Mapping[str, Measured]) -> dict[str, np.ndarray]:
    return {name: one.values for name, one in columns.items()}
