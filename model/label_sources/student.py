"""Trained quality models as label sources: AI-KD, eDifFIQA and DifFIQA(R) weights."""

from collections.abc import Sequence

import numpy as np
from torch import Tensor

from model.label_sources.base import LabelSource


class Student(LabelSource):
    """Take the quality a trained student predicts."""

    range = "unbounded; near the range of its own labels"
    trained = True

    def scores(self, images_BHW3: Tensor, names: Sequence[str]) -> np.ndarray:
        """Return the predicted qualities (B,)."""
        return self.network.qualities(images_BHW3).astype(np.float64)
