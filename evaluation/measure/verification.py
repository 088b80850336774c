"""Verification accuracy as a validation metric: which pairs, and how good embeddings are on them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from torch import Tensor

from data.tables.names import Names
from evaluation.measure.accuracy import verification_accuracy
from evaluation.pairs.readers import read_pairs
from evaluation.pairs.sets import PairSet
from utils.errors import DataError


@dataclass(frozen=True)
class Verification:
    """Judge embeddings by the pairs of a file.

    Accuracy is the mean over folds (ten, unless the file states them) of the accuracy at the threshold that is best
    on the other folds; with too few pairs for folds, the accuracy at the best threshold.
    """

    pairs: PairSet

    @property
    def names(self) -> Names:
        """Return the names of the images, one per row."""
        return self.pairs.names

    @property
    def images(self) -> Sequence[bytes] | None:
        """Return the encoded images themselves where the file carries them (.bin)."""
        return self.pairs.images

    def __call__(self, values: Mapping[str, Tensor]) -> dict[str, float]:
        """Return accuracy and number of pairs; `values` has `embedding` (N, D) and `row` (N,) in any order.

        Pairs with an image that gave no embedding are left out of both.
        """
        embedding_ND = values["embedding"].double().numpy()
        place = np.full(len(self.names), -1)
        place[values["row"].numpy()] = np.arange(len(embedding_ND))
        first, second = place[self.pairs.first], place[self.pairs.second]
        there = (first >= 0) & (second >= 0)
        if not there.any():
            raise DataError("no validation pair has both of its images; check dataset.val_pairs")
        unit_ND = embedding_ND / np.maximum(np.linalg.norm(embedding_ND, axis=1, keepdims=True), 1e-12)
        similarity = np.einsum("pd,pd->p", unit_ND[first[there]], unit_ND[second[there]])
        accuracy = verification_accuracy(similarity, self.pairs.mated[there], self.pairs.fold[there])
        return {"accuracy": float(accuracy), "pairs": float(there.sum())}


def read_verification(path: str | Path) -> Verification:
    """Read a pairs file: InsightFace `.bin`, LFW's pairs.txt, CFP's Protocol folder, or `imgA imgB 1|0` lines."""
    path = Path(path)
    pairs = read_pairs(path, pairs_format(path))
    if not pairs.mated.any() or pairs.mated.all():
        raise DataError(f"{path}: holds only {'mated' if pairs.mated.any() else 'non-mated'} pairs; both are needed")
    return Verification(pairs)


def pairs_format(path: Path) -> str:
    """Tell the format of a pairs file from its name and first lines."""
    if path.is_dir():
        return "cfp_fp"
    if not path.is_file():
        raise DataError(f"{path}: no such pairs file; check dataset.val_pairs (null: a held-out share of the images)")
    if path.suffix.lower() == ".bin":
        return "bin"
    with open(path, encoding="utf-8", errors="replace") as stream:
        lines = [line.split() for line in (stream.readline(), stream.readline())]
    header = all(word.isdigit() for word in lines[0]) and len(lines[0]) in (1, 2)
    return "lfw" if header and len(lines[1]) in (3, 4) else "list"
