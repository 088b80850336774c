"""Any other method: a network, of --allow-module or in ONNX, whose output is the quality."""

from collections.abc import Sequence

import numpy as np
from torch import Tensor

from model.label_sources.base import LabelSource
from utils.config.loading import Flag, StrictModel


class ModuleConfig(StrictModel):
    """Settings of the source `module`."""

    higher_is_better: Flag = True
    """0: the output counts downwards; labels are its negative."""


class Module(LabelSource):
    """Take the one number per image that a network returns."""

    config = ModuleConfig
    range = "as the network says"
    own_weights = True
    quality = "output"

    def scores(self, images_BHW3: Tensor, names: Sequence[str]) -> np.ndarray:
        """Return the outputs (B,)."""
        values_B = self.network.qualities(images_BHW3).astype(np.float64)
        return values_B if self.cfg.higher_is_better else -values_B
