"""How one data set is evaluated: aligned crops, then the misalignment protocol, all on the same pairs."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from data.tables.scores import read_scores
from evaluation.measure.correlation import Correlation, correlations
from evaluation.measure.nuisance import Nuisance, judge
from evaluation.measure.panel import Condition, Measure, PairScores, Panel, merge_seeds
from evaluation.measure.robustness import Agreement, agreement
from evaluation.pairs.sets import PairSet
from evaluation.protocol.embeddings import cosines, read_embeddings, unit_rows
from evaluation.protocol.face_set import FaceSet, with_images
from evaluation.protocol.metadata import read_metadata
from evaluation.protocol.numbers import Models, Numbers, complete, run_models
from evaluation.protocol.passes import CropPass, Measured
from evaluation.protocol.views import ALIGNED, View, misaligned_views
from utils.config.evaluate import EvaluateConfig
from utils.store import Store


@dataclass
class Findings:
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


class Protocol:
    """Evaluate one data set after the other under one configuration."""

    def __init__(self, cfg: EvaluateConfig, models: Models, folder: Path):
        """Keep what networks measure in folder/cache."""
        self.cfg, self.models, self.folder = cfg, models, folder
        self.measure = Measure(cfg.evaluation, cfg.base.seed)

    def evaluate(self, faces: FaceSet) -> Findings:
        """Measure aligned crops and every misaligned condition."""
        faces, crops = self._crops(faces)
        aligned = self._aligned(faces, crops)
        keep, remarks = complete(faces, aligned, self.cfg.evaluation)
        pairs = faces.pairs.subset(keep)
        findings = Findings(faces, pairs, _values(aligned.quality), remarks=remarks)
        findings.correlations = correlations(faces.name, findings.quality)
        similarity = {name: _similarity(pairs, one.values) for name, one in aligned.embedding.items()}
        for name, scores in similarity.items():
            place = (faces.name, name, Condition())
            findings.panels.append(self.measure.panel(place, pairs, PairScores.of(scores, findings.quality, pairs)))
        findings.seed_panels += findings.panels
        if path := self.cfg.datasets[faces.name].metadata:
            metadata = read_metadata(path, faces, pairs.names)
            findings.nuisance = judge(faces.name, metadata, pairs, findings.quality, similarity)
        views = misaligned_views(self.cfg.misalignment, faces.name)
        if views and (crops is None or not self.models.methods):
            findings.remarks.append(
                f"{faces.name}: score files hold no misaligned crops; only aligned ones are evaluated"
            )
            views = []
        for group in views:
            seen = [self._misaligned(findings, crops, view, similarity) for view in group]
            findings.seed_panels += [panel for panels in seen for panel in panels]
            findings.panels += [merge_seeds(same) for same in zip(*seen, strict=True)]
        return findings

    def _crops(self, faces: FaceSet) -> tuple[FaceSet, CropPass | None]:
        """Open the images, if any network has to run on them."""
        stored = [name for name, one in self.cfg.recognition.items() if faces.name in one.embeddings]
        wanted = self.models.methods or self.models.recognisers.keys() - stored
        if not wanted or (faces.folder is None and faces.pairs.images is None):
            return faces, None
        faces = with_images(faces, self.cfg.datasets[faces.name], self.folder)
        return faces, CropPass(faces, Store(self.folder / "cache"), self.cfg.dataloader.params, self.cfg.base.verbose)

    def _aligned(self, faces: FaceSet, crops: CropPass | None) -> Numbers:
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
            found = run_models(crops, ALIGNED, Models(self.models.methods, computed))
            quality |= found.quality
            embedding |= found.embedding
        return Numbers(
            {name: quality[name] for name in self.cfg.scores if name in quality},
            {name: embedding[name] for name in self.cfg.recognition if name in embedding},
        )

    def _misaligned(
        self, findings: Findings, crops: CropPass, view: View, similarity: Mapping[str, np.ndarray]
    ) -> list[Panel]:
        """Measure one view; recognition sees it too where `both` is asked for and the model itself is at hand."""
        kinds = self.cfg.misalignment.apply
        recognisers = self.models.recognisers if "both" in kinds else {}
        found = run_models(crops, view, Models(self.models.methods, recognisers))
        keep, remarks = complete(findings.faces, found, self.cfg.evaluation, findings.pairs)
        findings.remarks += [f"{view.label}: {remark}" for remark in remarks]
        pairs, quality = findings.pairs.subset(keep), _values(found.quality)
        used = pairs.used()
        for method, values in quality.items():
            condition = Condition(view.alignment, view.p, view.seed)
            rows = used[~np.isnan(findings.quality[method][used] + values[used])]
            figures = agreement(findings.quality[method][rows], values[rows])
            findings.agreements.append(Agreement(findings.faces.name, method, condition, *figures))
        panels = []
        for kind in kinds:
            seen = {name: scores[keep] for name, scores in similarity.items()}
            if kind == "both":
                seen = {name: _similarity(pairs, one.values) for name, one in found.embedding.items()}
            for name, scores in seen.items():
                place = (findings.faces.name, name, Condition(f"{view.alignment}_{kind}", view.p, view.seed))
                panels.append(self.measure.panel(place, pairs, PairScores.of(scores, quality, pairs)))
        return panels


def _similarity(pairs: PairSet, embedding_ND: np.ndarray) -> np.ndarray:
    return cosines(unit_rows(embedding_ND, pairs.names, pairs.used()), pairs.first, pairs.second)


def _values(columns: Mapping[str, Measured]) -> dict[str, np.ndarray]:
    return {name: one.values for name, one in columns.items()}
