"""Which images stand for an identity: those above one threshold for all, of identities that have enough of them."""

from dataclasses import dataclass

import numpy as np

from data.index.build import FaceIndex
from data.index.identities import find_identities
from data.index.split import Split
from utils.config.train_aikd import RefinementConfig
from utils.errors import DataError
from utils.present import present


@dataclass(frozen=True)
class CentreImages:
    """Name the images whose embeddings make the centre of each identity."""

    identity: np.ndarray
    """(N,) int32 identity of each row of the index, -1 where it has too few images above the threshold."""
    rows: np.ndarray
    """Rows whose embeddings make the centres, ascending."""
    dropped: int
    """Training images left out, because their identity has too few images above the threshold."""

    @property
    def count(self) -> int:
        """Return the number of identities with a centre."""
        return len(np.unique(self.identity[self.rows]))


def centre_images(
    index: FaceIndex, parts: Split, cfg: RefinementConfig, rule: str = "parent"
) -> tuple[CentreImages, Split]:
    """Choose the images above one threshold; take identities with too few of them out of the training rows.

    `rule` tells the identity of an image (data.index.identities).
    The threshold is that of eDifFIQA: the quantile of all labels above which
    the best cfg.top of them lie. Validation images make no centre, and the validation rows stay as they are. Raises
    DataError without identities, when none has cfg.min_images above the threshold, or for labels outside [0, 1].
    """
    labels = present(index.labels)
    if not (0 <= labels.min() and labels.max() <= 1):
        raise DataError(
            f"{index.source.location}: refined labels lie in [0, 1], these go from {labels.min():g} to "
            f"{labels.max():g}; set dataset.label_scaling: minmax or rank, or remove loss.refinement"
        )
    found = find_identities(index.names, rule)
    found.require_folders(index.source.location, "loss.refinement needs a folder for each identity")
    identity = found.rows
    best = parts.train[labels[parts.train] >= np.quantile(labels, 1 - cfg.top)]
    above = np.bincount(identity[best], minlength=int(identity.max()) + 1)
    if above.max() < cfg.min_images:
        raise DataError(
            f"{index.source.location}: no identity (folder) has {cfg.min_images} training images among the best "
            f"{cfg.top:.3g} of all labels, the most is {above.max()}; lower loss.refinement.min_images, raise "
            "loss.refinement.top, or remove loss.refinement"
        )
    identity = np.where(above[identity] < cfg.min_images, np.int32(-1), identity)
    train = parts.train[identity[parts.train] >= 0]
    chosen = CentreImages(identity, np.sort(best[identity[best] >= 0]), len(parts.train) - len(train))
    return chosen, parts._replace(train=train)
