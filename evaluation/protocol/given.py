"""What was measured elsewhere: scores and embeddings in files, one for each view of a data set's crops."""

import logging
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from data.index.label_check import odd_labels
from data.tables.scores import read_scores
from evaluation.pairs.comparison_files import is_dasec, pair_scores, read_dasec_qualities
from evaluation.pairs.sets import PairSet
from evaluation.protocol.embeddings import read_embeddings
from evaluation.protocol.face_set import FaceSet
from evaluation.protocol.passes import Measured
from evaluation.protocol.views import View
from utils.config.evaluate import EvaluateConfig, ScoresConfig
from utils.outside.reading import about

logger = logging.getLogger("evaluate")


@dataclass(frozen=True)
class GivenFiles:
    """Read the files of one data set, joined to the names of its pairs."""

    cfg: EvaluateConfig
    faces: FaceSet

    @property
    def scores(self) -> dict[str, Mapping[str, str]]:
        """Return the files of each method that has some here: view -> file."""
        found = {name: one.files.get(self.faces.name) for name, one in self.cfg.scores.items()}
        return {name: files for name, files in found.items() if files}

    @property
    def embeddings(self) -> dict[str, Mapping[str, str]]:
        """Return the files of each recognition model that has some here: view -> file."""
        found = {name: one.embeddings.get(self.faces.name) for name, one in self.cfg.recognition.items()}
        return {name: files for name, files in found.items() if files}

    @property
    def comparisons(self) -> dict[str, Mapping[str, Sequence[str]]]:
        """Return the files of comparison scores of each recognition model that has some here: view -> files."""
        found = {name: one.comparisons.get(self.faces.name) for name, one in self.cfg.recognition.items()}
        return {name: files for name, files in found.items() if files}

    @property
    def recognised(self) -> dict[str, Mapping[str, object]]:
        """Return the files of each recognition model that has embeddings or comparison scores here."""
        return {**self.embeddings, **self.comparisons}

    def quality(self, view: View, methods: Collection[str]) -> dict[str, Measured]:
        """Return the scores of those of the methods that have a file of this view, higher is better."""
        return {
            name: self._quality(self.cfg.scores[name], name, files[view.key])
            for name, files in self.scores.items()
            if name in methods and view.key in files
        }

    def _quality(self, cfg: ScoresConfig, name: str, path: str) -> Measured:
        table = read_dasec_qualities(path, name) if is_dasec(path) else read_scores(path, cfg)
        for remark in (*table.remarks, *odd_labels(table.values)):
            logger.info(f"{self.faces.name}, {name}: {remark} ({path})")
        values = table.values if cfg.higher_is_better else -table.values
        with about(path):
            return Measured(self.faces.column(table.names, values), {})

    def _embedding(self, path: str) -> Measured:
        table = read_embeddings(path)
        with about(path):
            return Measured(self.faces.column(*table), {})

    def embedding(self, view: View, recognisers: Collection[str]) -> dict[str, Measured]:
        """Return the embeddings of those of the recognition models that have a file of this view."""
        return {
            name: self._embedding(files[view.key])
            for name, files in self.embeddings.items()
            if name in recognisers and view.key in files
        }

    def comparison(self, view: View, recognisers: Collection[str], pairs: PairSet) -> dict[str, np.ndarray]:
        """Return the comparison score of each pair, (P,), higher is more alike, NaN where the files hold none."""
        return {
            name: pair_scores(files[view.key], pairs, self.faces.key_root)
            * (-1 if self.cfg.recognition[name].distances else 1)
            for name, files in self.comparisons.items()
            if name in recognisers and view.key in files
        }


def with_every(views: Sequence[View], files: Mapping[str, Mapping[str, object]]) -> list[str]:
    """Return who has a file of each of the views."""
    return [name for name, own in files.items() if all(view.key in own for view in views)]


def missing_views(groups: Iterable[Sequence[View]], files: Mapping[str, object]) -> list[str]:
    """Name the misaligned views that files lack."""
    return [view.key for group in groups for view in group if view.key not in files]
