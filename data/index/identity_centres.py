"""Which images stand for an identity: those with the highest labels, of identities that have enough images."""

from dataclasses import dataclass

import numpy as np

from data.index.build import FaceIndex
from data.index.identities import folder_identities
from data.index.split import Split
from utils.config.train_aikd import RefinementConfig
from utils.errors import DataError
from utils.present import present


@dataclass(frozen=True)
class CentreImages:
    """Name the images whose embeddings make the centre of each identity."""

    identity: np.ndarray
    """(N,) int32 identity of each row of the index, -1 where it has too few images."""
    rows: np.ndarray
    """Rows whose embeddings make the centres, ascending."""
    dropped: int
    """Training images left out, because their identity has too few."""

    @property
    def count(self) -> int:
        """Return the number of identities with a centre."""
        return len(np.unique(self.identity[self.rows]))


def centre_images(index: FaceIndex, parts: Split, cfg: RefinementConfig) -> tuple[CentreImages, Split]:
    """Choose each identity's best training images; take identities with too few images out of the training rows.

    An identity is the folder of an image. Of n training images the best ceil(n * cfg.top) are taken, equal labels
    in the order of the rows; cfg.min_images counts validation images too. The validation rows stay as they are.
    Raises DataError without identities, when no identity is large enough, or for labels outside [0, 1].
    """
    labels = present(index.labels)
    if not (0 <= labels.min() and labels.max() <= 1):
        raise DataError(
            f"{index.source.location}: refined labels lie in [0, 1], these go from {labels.min():g} to "
            f"{labels.max():g}; set dataset.label_scaling: minmax or rank, or remove loss.refinement"
        )
    identity, _ = folder_identities(index.source, "loss.refinement needs a folder for each identity")
    sizes = np.bincount(identity)
    if sizes.max() < cfg.min_images:
        raise DataError(
            f"{index.source.location}: no identity (folder) has {cfg.min_images} images; lower "
            "loss.refinement.min_images, or remove loss.refinement"
        )
    identity = np.where(sizes[identity] < cfg.min_images, np.int32(-1), identity)
    train = parts.train[identity[parts.train] >= 0]
    chosen = CentreImages(identity, _best(labels, identity, train, cfg.top), len(parts.train) - len(train))
    return chosen, parts._replace(train=train)


def _best(labels: np.ndarray, identity: np.ndarray, train: np.ndarray, top: float) -> np.ndarray:
    order = train[np.lexsort((train, -labels[train], identity[train]))]
    sizes = np.bincount(identity[order])
    place = np.arange(len(order)) - (np.cumsum(sizes) - sizes)[identity[order]]
    wanted = np.ceil(sizes * top - 1e-9)  # 10 * 0.2 is two images, not three
    return np.sort(order[place < wanted[identity[order]]])
