"""What every frozen network is: network, preprocessing contract, device and precision; crops in, numbers out."""

from typing import NamedTuple

import numpy as np
from torch import Tensor, device

from utils.contract import InputContract
from utils.errors import WeightsError


class Answer(NamedTuple):
    """What a network says about a batch, on its device, in float32."""

    embedding: Tensor | None
    """(B, D); None for a network that gives none."""
    quality: Tensor | None
    """(B,), higher = better; None for a network without a quality head."""
    taps: dict[str, Tensor]
    """What the modules named in `tap` were given, (B, ...)."""


class FrozenNetwork:
    """Give embeddings and qualities of aligned crops (B, S, S, 3) uint8 RGB. No gradient reaches the network.

    The numbers of an image depend on the other images of its batch by no more than the rounding of float32.
    """

    name: str
    """What messages call it."""
    contract: InputContract
    device: "device"
    """Where it computes."""
    remark: str = ""
    """One sentence about weights and preprocessing the user should read once, or nothing."""
    remembers: bool = False
    """Whether the answer to the latest batch is kept, for several methods that ask about the same tensor in turn."""
    _latest: tuple[Tensor, Answer] | None = None

    def run(self, images_BHW3: Tensor) -> Answer:
        """Compute the answer to a batch of at least one crop."""
        raise NotImplementedError

    def __call__(self, images_BHW3: Tensor) -> Answer:
        """Return the answer to a batch, computed once where it is remembered."""
        if not self.remembers:
            return self.run(images_BHW3)
        if self._latest is None or self._latest[0] is not images_BHW3:
            self._latest = images_BHW3, self.run(images_BHW3)
        return self._latest[1]

    def embeddings(self, images_BHW3: Tensor) -> np.ndarray:
        """Return the embeddings (B, D) float32."""
        embedding_BD = self(images_BHW3).embedding
        if embedding_BD is None:
            raise WeightsError(f"{self.name}: gives no embedding; name a recognition network")
        return embedding_BD.cpu().numpy()

    def qualities(self, images_BHW3: Tensor) -> np.ndarray:
        """Return the qualities (B,) float32, higher = better."""
        if not len(images_BHW3):
            return np.zeros(0, np.float32)
        quality_B = self(images_BHW3).quality
        if quality_B is None:
            raise WeightsError(f"{self.name}: gives no quality; name the weights of a trained quality model")
        return quality_B.cpu().numpy()
