"""Trained quality models as label sources: AI-KD, eDifFIQA and DifFIQA(R) weights."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from model.label_sources.base import LabelSource


class Student(LabelSource):
    """Take the quality a trained student predicts; its network is a WrapperModel."""

    name = "student"
    range = "unbounded; near the range of its own labels"
    needs = "weights of a trained quality model"

    @torch.no_grad()
    def scores(self, images_BHW3: Tensor, keys: Sequence[str]) -> np.ndarray:
        """Return the predicted qualities (B,)."""
        _, quality_B = self.network.module(self.network.prepare(images_BHW3))
        return quality_B.double().cpu().numpy()
