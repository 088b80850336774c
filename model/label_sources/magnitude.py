"""MagFace's measure: the length of the raw embedding (Meng et al., CVPR 2021)."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from model.label_sources.base import LabelSource


class Magnitude(LabelSource):
    """Take the L2 norm of the embedding; a quality for a MagFace-trained network, a weak proxy for another."""

    name = "magnitude"
    range = "[0, inf)"
    needs = "a MagFace-trained network, else a weak proxy"
    remark = "magnitude: a quality only if the network was trained as MagFace; on another one a weak proxy"

    @torch.no_grad()
    def scores(self, images_BHW3: Tensor, keys: Sequence[str]) -> np.ndarray:
        """Return the norms (B,)."""
        embedding_BD = self.network.embed(self.network.prepare(images_BHW3))
        return embedding_BD.double().norm(dim=1).cpu().numpy()
