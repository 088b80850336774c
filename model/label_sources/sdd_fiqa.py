"""SDD-FIQA: how far an image's cosines within its identity lie from those to others (Ou et al., CVPR 2021)."""

from collections.abc import Sequence

import numpy as np
from pydantic import PositiveInt

from model.label_sources.base import PopulationSource, named_seed, pieces
from utils.config.loading import StrictModel
from utils.errors import DataError
from utils.progress import progress

GATHER_BYTES = 32 << 20  # the partners' embeddings held at once


class SddFiqaConfig(StrictModel):
    """SDD-FIQA: distance between the cosines within and across identities.

    Needs identities: an image's identity is the folder it lies in.
    """

    partners: PositiveInt = 24
    """Cosines drawn of each kind."""
    rounds: PositiveInt = 12
    """Independent draws that are averaged."""


class SddFiqa(PopulationSource):
    """Average, over rounds of random partners, the Wasserstein-1 distance between the two sets of cosines.

    In each round an image meets up to `partners` other images of its identity and as many of other identities,
    drawn without replacement; the round's distances are min-max scaled over all images before averaging.
    """

    config = SddFiqaConfig
    range = "[0, 1]"
    reason = "its identity has no other image"

    def finish(self, embeddings_ND: np.ndarray, identities: np.ndarray, names: Sequence[str]) -> np.ndarray:
        """Return the labels (N,), in [0, 1]; NaN for an image that is alone with its identity."""
        population = _Population(identities)
        rows = np.flatnonzero(population.counts > 1)
        if not len(rows) or population.counts[0] == len(names):
            raise DataError(
                f"SDD-FIQA needs at least two identities (folders), one of them with two images; "
                f"found {len(names)} images of {len(np.unique(identities))}; use another source"
            )
        labels = np.full(len(names), np.nan)
        distances_NR = np.empty((len(rows), self.cfg.rounds))
        bytes_per_image = self.cfg.rounds * 2 * self.cfg.partners * embeddings_ND.shape[1] * 4
        with progress(total=len(rows), unit="img", desc="compares", disable=not self.verbose) as bar:
            for part in pieces(len(rows), GATHER_BYTES // bytes_per_image):
                distances_NR[part] = self._distances(embeddings_ND, population, rows[part], names)
                bar.update(len(rows[part]))
        low, high = distances_NR.min(axis=0), distances_NR.max(axis=0)
        spread = np.where(high > low, high - low, 1.0)
        labels[rows] = ((distances_NR - low) / spread).mean(axis=1)
        return labels

    def _distances(
        self, embeddings_ND, population: "_Population", rows: np.ndarray, names: Sequence[str]
    ) -> np.ndarray:
        """Return the distance of each image and round (rows, R)."""
        rounds = self.cfg.rounds
        partner_MK = np.zeros((len(rows) * rounds, 2 * self.cfg.partners), dtype=np.int64)
        weight_MK = np.zeros(partner_MK.shape)
        for i, row in enumerate(map(int, rows)):
            rng = np.random.default_rng(named_seed(self.seed, names[int(row)]))
            for m in range(i * rounds, (i + 1) * rounds):
                same, other = population.draw(row, self.cfg.partners, rng)
                used = len(same) + len(other)
                partner_MK[m, :used] = np.concatenate([same, other])
                partner_MK[m, used:] = same[0]  # weightless: repeats a value that is there
                weight_MK[m, : len(same)] = 1 / len(same)
                weight_MK[m, len(same) : used] = -1 / len(other)
        own_ND1 = embeddings_ND[rows][:, :, None]
        partner_NKD = embeddings_ND[partner_MK.reshape(len(rows), -1)]
        norms_NK = np.sqrt(np.einsum("nkd,nkd->nk", partner_NKD, partner_NKD)) * np.linalg.norm(own_ND1, axis=1)
        cosine_MK = ((partner_NKD @ own_ND1)[:, :, 0] / norms_NK).reshape(partner_MK.shape)
        return wasserstein(cosine_MK, weight_MK).reshape(len(rows), rounds)


def wasserstein(value_MK: np.ndarray, weight_MK: np.ndarray) -> np.ndarray:
    """Return the Wasserstein-1 distances (M,): the area between the two distribution functions.

    A row holds the values of both samples; `weight_MK` is 1/n in the first sample, -1/m in the second, 0 in neither.
    """
    order = np.argsort(value_MK, axis=1, kind="stable")
    value = np.take_along_axis(value_MK, order, axis=1).astype(np.float64)
    gap = np.take_along_axis(weight_MK, order, axis=1).cumsum(axis=1)  # difference of the functions
    return (np.abs(gap[:, :-1]) * np.diff(value, axis=1)).sum(axis=1)


class _Population:
    """Know who shares an identity with whom."""

    def __init__(self, identities: np.ndarray):
        self.members = np.argsort(identities, kind="stable")
        _, inverse, counts = np.unique(identities, return_inverse=True, return_counts=True)
        inverse = inverse.reshape(-1)
        self.counts = counts[inverse]  # images of the row's identity
        self.starts = (np.cumsum(counts) - counts)[inverse]  # where they begin in members
        self.places = np.empty(len(identities), dtype=np.int64)
        self.places[self.members] = np.arange(len(identities))

    def draw(self, row: int, partners: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """Draw up to `partners` rows of the same identity and of the others, without replacement."""
        start, count = self.starts[row], self.counts[row]
        same = rng.choice(count - 1, min(partners, count - 1), replace=False) + start
        same += same >= self.places[row]  # step over the image itself
        others = len(self.members) - count
        other = rng.choice(others, min(partners, others), replace=False)
        other += np.where(other >= start, count, 0)  # step over its identity
        return self.members[same], self.members[other]
