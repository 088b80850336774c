"""A label source of a user's own, as model/label_sources holds them: settings and numbers in one file."""

from collections.abc import Sequence

import numpy as np
from torch import Tensor

from model.label_sources.base import LabelSource
from utils.config.loading import StrictModel


class BrightnessConfig(StrictModel):
    """Brightness: the mean pixel."""

    power: float = 1.0
    """Exponent."""


class Brightness(LabelSource):
    """Take the mean pixel, between 0 and 1, to a power."""

    config = BrightnessConfig
    range = "[0, 1]"

    def scores(self, images_BHW3: Tensor, names: Sequence[str]) -> np.ndarray:
        """Return the labels (B,)."""
        return (images_BHW3.double().mean(dim=(1, 2, 3)) / 255).numpy() ** self.cfg.power
