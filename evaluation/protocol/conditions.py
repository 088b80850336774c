"""How one data set is evaluated: aligned crops, then the misalignment protocol, all on the same pairs."""

import logging
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np

from evaluation.measure.correlation import Correlation, correlations
from evaluation.measure.nuisance import Nuisance, judge
from evaluation.measure.panel import Condition, Measure, PairScores, Panel, Place, merge_seeds, without_heights
from evaluation.measure.robustness import Agreement, Outside, agreement
from evaluation.measure.rules import Target
from evaluation.pairs.sets import PairSet
from evaluation.protocol.doubts import doubts
from evaluation.protocol.embeddings import cosines, unit_rows
from evaluation.protocol.face_set import FaceSet, with_images
from evaluation.protocol.given import GivenFiles, missing_views, with_every
from evaluation.protocol.metadata import read_metadata
from evaluation.protocol.numbers import ImageNumbers, Models, complete, run_models
from evaluation.protocol.passes import CropPass, Measured
from evaluation.protocol.views import ALIGNED, View, misaligned_views
from utils.config.evaluate import EvaluateConfig
from utils.errors import DataError
from utils.present import present
from utils.store import Store

logger = logging.getLogger("evaluate")


@dataclass
class Findings:
    """Hold all figures of a data set. panels: seeds merged; seed_panels: one per seed."""

    faces: FaceSet
    pairs: PairSet
    """The pairs that were evaluated."""
    quality: dict[str, np.ndarray]
    """Scores on aligned crops, (N,) over the names of the pairs."""
    similarity: dict[str, np.ndarray]
    """Similarity of each evaluated pair on aligned crops, (P,), by recognition model."""
    panels: list[Panel] = field(default_factory=list)
    seed_panels: list[Panel] = field(default_factory=list)
    agreements: list[Agreement] = field(default_factory=list)
    outside: list[Outside] = field(default_factory=list)
    """How far the crops of each view reach beyond their images, where some are misaligned."""
    correlations: list[Correlation] = field(default_factory=list)
    remarks: list[str] = field(default_factory=list)
    doubts: list[str] = field(default_factory=list)
    """Where the figures are those of wrong pairs, embeddings or scores."""
    nuisance: Nuisance | None = None

    def scored(self, method: str) -> np.ndarray:
        """Return the rows of the names in the evaluated pairs that the method scores, ascending."""
        used = self.pairs.used()
        return used[~np.isnan(self.quality[method][used])]


class ViewInputs(NamedTuple):
    """Where the numbers of one view come from."""

    given: GivenFiles
    crops: CropPass | None
    """None: no network runs."""
    view: View


class Protocol:
    """Evaluate one data set after the other under one configuration."""

    def __init__(self, cfg: EvaluateConfig, models: Models, folder: Path):
        """Keep what networks measure in folder/cache."""
        self.cfg, self.models, self.folder = cfg, models, folder
        self.measure = Measure(cfg.evaluation, cfg.base.seed)
        self.thresholds: dict[tuple[Place, float | None], float] = {}

    def evaluate(self, faces: FaceSet) -> Findings:
        """Measure aligned crops and every misaligned condition."""
        faces, crops = self._crops(faces)
        given = GivenFiles(self.cfg, faces)
        aligned = self._numbers(ViewInputs(given, crops, ALIGNED), self.cfg.scores, self.cfg.recognition, faces.pairs)
        keep, remarks = complete(faces, aligned, self.cfg.evaluation)
        pairs = faces.pairs.subset(keep)
        similarity = self._similarities(aligned, pairs, keep)
        findings = Findings(faces, pairs, _values(aligned.quality), similarity, remarks=[*faces.remarks, *remarks])
        findings.correlations = correlations(faces.name, findings.quality)
        findings.panels += self._aligned_panels(findings)
        findings.seed_panels += findings.panels
        findings.doubts = doubts(findings.panels)
        for remark in (*faces.remarks, *findings.doubts):
            logger.warning(remark)
        if path := self.cfg.datasets[faces.name].metadata:
            metadata = read_metadata(path, faces, pairs.names)
            findings.nuisance = judge(faces.name, metadata, pairs, findings.quality, similarity)
        self._misaligned_conditions(findings, given, crops)
        if findings.outside and aligned.outside is not None:
            findings.outside.insert(0, _outside(findings, aligned.outside, ALIGNED))
        if remark := _beyond(findings):
            logger.info(remark)
            findings.remarks.append(remark)
        return findings

    def _misaligned_conditions(self, findings: Findings, given: GivenFiles, crops: CropPass | None) -> None:
        """Measure each condition by those that run here and those that have files of all its views."""
        groups = misaligned_views(self.cfg.misalignment, findings.faces.name)
        if not groups:
            return
        both = "both" in present(self.cfg.misalignment).apply
        running = self.models if crops is not None else Models({}, {})
        for remark in _not_everywhere(given, running, groups, both):
            logger.info(remark)
            findings.remarks.append(remark)
        for group in groups:
            methods = running.methods.keys() | with_every(group, given.scores)
            recognisers = running.recognisers.keys() | with_every(group, given.recognised) if both else ()
            if methods:
                inputs = [ViewInputs(given, crops, view) for view in group]
                seen = [
                    self._misaligned(findings, one.view, self._numbers(one, methods, recognisers, findings.pairs))
                    for one in inputs
                ]
                findings.panels += [merge_seeds(same) for same in zip(*seen, strict=True)]
                findings.seed_panels += [without_heights(panel) for panels in seen for panel in panels]

    def _aligned_panels(self, findings: Findings, keep: np.ndarray | slice = slice(None)) -> list[Panel]:
        """Evaluate aligned crops, on the findings' pairs where `keep` holds."""
        pairs = findings.pairs if isinstance(keep, slice) else findings.pairs.subset(keep)
        panels = []
        for name, similarity in findings.similarity.items():
            scores = PairScores.of(similarity[keep], findings.quality, pairs)
            panels += self._panels(Place(findings.faces.name, name), pairs, scores)
        return [merge_seeds([panel]) for panel in panels]

    def _panels(self, place: Place, pairs: PairSet, scores: PairScores) -> list[Panel]:
        """Measure at the thresholds of this place, which data sets that come later may take over."""
        made = self.measure.panels(place, pairs, scores, self._targets(place))
        for panel in made:
            self.thresholds.setdefault((place, panel.fmr), panel.threshold)
        return made

    def _targets(self, place: Place) -> list[Target]:
        """Return what sets the thresholds of a place."""
        model = self.cfg.recognition[place.recognition]
        if model.threshold is not None:
            return [Target(None, -model.threshold if model.distances else model.threshold)]
        rates, source = self.cfg.evaluation.fmr, self.cfg.datasets[place.dataset].threshold_from
        if source is None:
            return [Target(fmr) for fmr in rates]
        there = replace(place, dataset=source)
        if (there, rates[0]) not in self.thresholds:
            raise DataError(
                f"datasets.{place.dataset}.threshold_from: {source} has no threshold of {place.recognition} for these "
                f"crops ({place.condition.alignment}); give it the same views and recognition models"
            )
        return [Target(fmr, self.thresholds[there, fmr]) for fmr in rates]

    def _crops(self, faces: FaceSet) -> tuple[FaceSet, CropPass | None]:
        """Open the images, if any network has to run on them."""
        wanted = self.models.methods or self.models.recognisers.keys() - GivenFiles(self.cfg, faces).recognised.keys()
        if not wanted or (faces.crops is None and faces.pairs.images is None):
            return faces, None
        faces = with_images(faces, self.cfg.datasets[faces.name])
        return faces, CropPass(faces, Store(self.folder / "cache"), self.cfg.dataloader.params, self.cfg.base.verbose)

    def _numbers(
        self, inputs: ViewInputs, methods: Collection[str], recognisers: Collection[str], pairs: PairSet
    ) -> ImageNumbers:
        """Read what these have in files of this view and compute the rest."""
        given, crops, view = inputs
        comparison = given.comparison(view, recognisers, pairs)
        quality, embedding, outside = given.quality(view, methods), given.embedding(view, recognisers), None
        if crops is not None:
            wanted = {*recognisers} - {*embedding} - {*comparison}
            own = Models(
                {name: one for name, one in self.models.methods.items() if name in methods},
                {name: one for name, one in self.models.recognisers.items() if name in wanted},
            )
            found = run_models(crops, view, own)
            quality, embedding, outside = quality | found.quality, embedding | found.embedding, found.outside
        return ImageNumbers(
            {name: quality[name] for name in self.cfg.scores if name in quality},
            {name: embedding[name] for name in self.cfg.recognition if name in embedding},
            comparison,
            outside,
        )

    def _similarities(self, numbers: ImageNumbers, pairs: PairSet, keep: np.ndarray) -> dict[str, np.ndarray]:
        """Return how alike each recognition model finds the pairs, (P,), those of `keep` among all."""
        found = {name: values[keep] for name, values in numbers.comparison.items()}
        found |= {name: _similarity(pairs, one.values) for name, one in numbers.embedding.items()}
        return {name: found[name] for name in self.cfg.recognition if name in found}

    def _misaligned(self, findings: Findings, view: View, found: ImageNumbers) -> list[Panel]:
        """Judge one view; recognition sees it too where `both` is asked for and its embeddings are at hand."""
        keep, remarks = complete(findings.faces, found, self.cfg.evaluation, findings.pairs)
        findings.remarks += [f"{view.label}: {remark}" for remark in remarks]
        pairs, quality = findings.pairs.subset(keep), _values(found.quality)
        findings.agreements += _agreements(findings, quality, pairs.used(), view)
        if found.outside is not None:
            findings.outside.append(_outside(findings, found.outside, view))
        aligned = self._aligned_panels(findings, keep) if not keep.all() else findings.panels
        reference = {(one.recognition, one.fmr): one for one in aligned if one.condition == Condition()}
        panels = []
        for kind in present(self.cfg.misalignment).apply:
            seen = {name: scores[keep] for name, scores in findings.similarity.items()}
            if kind == "both":
                seen = self._similarities(found, pairs, keep)
            for name, scores in seen.items():
                place = Place(findings.faces.name, name, Condition(f"{view.alignment}_{kind}", view.p, view.seed))
                made = self._panels(place, pairs, PairScores.of(scores, quality, pairs))
                panels += [replace(panel, aligned=reference[name, panel.fmr]) for panel in made]
        return panels


def _not_everywhere(given: GivenFiles, running: Models, groups: Sequence[Sequence[View]], both: bool) -> list[str]:
    """Return remarks on the methods and recognition models whose files do not hold every misaligned view."""
    name, remarks = given.faces.name, []
    lacking = {method: missing_views(groups, files) for method, files in given.scores.items()}
    none = [method for method, views in lacking.items() if len(views) == sum(map(len, groups))]
    if none and not running.methods and len(none) == len(lacking):
        return [f"{name}: score files hold no misaligned crops; only aligned ones are evaluated"]
    if none:
        remarks.append(
            f"{name}: score files hold no misaligned crops, so {', '.join(none)} {_is(none)} in tables of aligned "
            "crops only; name weights or source, or a file for each view, to evaluate misaligned ones"
        )
    remarks += [_lacks(name, f"scores of {who}", views) for who, views in lacking.items() if views and who not in none]
    if both:
        stored = {who: files for who, files in given.recognised.items() if who not in running.recognisers}
        lacking = {who: missing_views(groups, files) for who, files in stored.items()}
        none = [who for who, views in lacking.items() if len(views) == sum(map(len, groups))]
        if none:
            remarks.append(
                f"{name}: files of embeddings are those of aligned crops, so {', '.join(none)} {_is(none)} in no table "
                "where recognition sees misaligned crops; name weights, or a file for each view, to have it there"
            )
        remarks += [_lacks(name, f"numbers of {who}", v) for who, v in lacking.items() if v and who not in none]
    return remarks


def _lacks(name: str, what: str, views: Sequence[str]) -> str:
    few = ", ".join(views[:3]) + (f" and {len(views) - 3} more" if len(views) > 3 else "")
    return f"{name}: no file holds the {what} for {few}; without all seeds of a condition it is not in its tables"


def _outside(findings: Findings, shares_N: np.ndarray, view: View) -> Outside:
    """Return how far the crops of a view reach beyond their images, over the images of the findings' pairs."""
    shares = shares_N[findings.pairs.used()]
    condition = Condition(view.alignment, view.p, view.seed)
    return Outside(findings.faces.name, condition, view.border, float(np.nanmean(shares)), float(np.nanmax(shares)))


def _beyond(findings: Findings) -> str | None:
    """Say how far crops reach beyond their images at the largest p, and what that may do; None where none does."""
    moved = [(one.condition.p, one) for one in findings.outside if one.condition.p]
    worst = [one for p, one in moved if p == max(other for other, _ in moved)]
    if not worst or max(one.most for one in worst) == 0:
        return None
    name, p, border = findings.faces.name, worst[0].condition.p, worst[0].border
    share, most = 100 * np.mean([one.mean for one in worst]), 100 * max(one.most for one in worst)
    copies = "the images are aligned copies, so " if present(findings.faces.crops).cfg.input == "aligned" else ""
    shown = "black, which a method can read as misaligned" if border == "black" else f"filled (border: {border})"
    way_out = "; misalignment.border: replicate or reflect fills them" if border == "black" else ""
    return (
        f"{name}: {copies}at p = {p:g} {share:.1f} % of a crop's pixels lie outside its image (up to {most:.1f} %) and "
        f"are {shown}{way_out}"
    )


def _is(names: list[str]) -> str:
    return "is" if len(names) == 1 else "are"


def _agreements(findings: Findings, quality: Mapping[str, np.ndarray], used: np.ndarray, view: View) -> list[Agreement]:
    """Compare each method's scores on misaligned crops with those on aligned ones, over the rows `used`."""
    condition = Condition(view.alignment, view.p, view.seed)
    found = []
    for method, values in quality.items():
        rows = used[~np.isnan(findings.quality[method][used] + values[used])]
        figures = agreement(findings.quality[method][rows], values[rows])
        found.append(Agreement(findings.faces.name, method, condition, *figures))
    return found


def _similarity(pairs: PairSet, embedding_ND: np.ndarray) -> np.ndarray:
    return cosines(unit_rows(embedding_ND, pairs.names, pairs.used()), pairs.first, pairs.second)


def _values(columns: Mapping[str, Measured]) -> dict[str, np.ndarray]:
    return {name: one.values for name, one in columns.items()}
