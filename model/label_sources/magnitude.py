"""MagFace's measure: the length of the raw embedding (Meng et al., CVPR 2021)."""

from collections.abc import Sequence

import numpy as np
from torch import Tensor

from model.label_sources.base import LabelSource
from utils.present import present


class Magnitude(LabelSource):
    """Take the L2 norm of the embedding; a quality for a MagFace-trained network, a weak proxy for another."""

    range = "[0, inf)"
    remark = "magnitude: a quality only if the network was trained as MagFace; on another one a weak proxy"

    def scores(self, images_BHW3: Tensor, names: Sequence[str]) -> np.ndarray:
        """Return the norms (B,)."""
        return present(self.network(images_BHW3).embedding).double().norm(dim=1).cpu().numpy()
