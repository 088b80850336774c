"""GraFIQs: how hard the image pulls at the BatchNorm statistics the network was trained with (CVPRW 2024)."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor, nn

from model.frozen.network import TorchNetwork
from model.label_sources.base import LabelSource, pieces
from utils.config.loading import StrictModel
from utils.errors import ConfigError

KEY = "source.grafiqs"


class GrafiqsConfig(StrictModel):
    """GraFIQs: gradients of the BatchNorm statistics' mismatch. Needs gradients and BatchNorm2d layers."""

    tap: str = "image"
    """Where the gradients are summed: image, or the module whose output is taken."""


class Grafiqs(LabelSource):
    """Score an image by minus the sum of absolute gradients of its BatchNorm mismatch at a tap.

    Mismatch: for every BatchNorm2d the mean squared difference between the input's mean per channel and the stored
    running mean, plus the same for the (biased) variance; averaged over the layers. In a batch the statistics are
    taken per image over its pixels and the mismatches are summed, so each image has the gradient it has alone.
    """

    config = GrafiqsConfig
    looks_inside = True
    network: TorchNetwork
    range = "(-inf, 0]"

    def __init__(self, network: TorchNetwork, cfg: GrafiqsConfig, seed: int = 0, rows: int = 32):
        super().__init__(network, cfg, seed, rows)
        modules = dict(network.backbone.named_modules())
        self.norms = [m for m in modules.values() if isinstance(m, nn.BatchNorm2d) and m.running_mean is not None]
        if not self.norms:
            raise ConfigError(f"{KEY}: {network.name} has no BatchNorm2d with running statistics; use another source")
        if cfg.tap != "image" and cfg.tap not in modules:
            names = ", ".join(name for name, _ in network.backbone.named_children())
            raise ConfigError(f"{KEY}.tap: {network.name} has no module {cfg.tap!r}; use image or e.g. one of {names}")
        self.tap_name = cfg.tap
        self.tap = None if cfg.tap == "image" else modules[cfg.tap]

    def scores(self, images_BHW3: Tensor, names: Sequence[str]) -> np.ndarray:
        """Return minus the summed absolute gradients (B,)."""
        parts = [self._score(images_BHW3[part]) for part in pieces(len(names), self.rows)]
        return torch.cat(parts).cpu().numpy()

    def _score(self, images_BHW3: Tensor) -> Tensor:
        x_BCHW = self.network.prepare(images_BHW3)
        taps = [x_BCHW.requires_grad_(True)] if self.tap is None else []
        mismatches: list[Tensor] = []
        with self._watching(mismatches, taps), torch.enable_grad():
            self.network.embed(x_BCHW)
        mismatch = torch.stack(mismatches).mean(dim=0).sum()
        gradient = None
        if taps and mismatch.requires_grad:
            (gradient,) = torch.autograd.grad(mismatch, taps[:1], allow_unused=True)
        if gradient is None:
            raise ConfigError(f"{KEY}.tap: no BatchNorm2d of {self.network.name} follows {self.tap_name}; tap earlier")
        return -gradient.double().abs().flatten(1).sum(dim=1)

    @contextmanager
    def _watching(self, mismatches: list[Tensor], taps: list[Tensor]) -> Iterator[None]:
        """Collect the mismatch (B,) of each layer, and the tap's output as a leaf, during one pass."""

        def measure(norm: nn.BatchNorm2d, inputs: tuple) -> None:
            x_BCHW = inputs[0].float()
            mean_BC = x_BCHW.mean(dim=(2, 3))
            variance_BC = x_BCHW.var(dim=(2, 3), correction=0)  # biased, as BatchNorm normalises; 0 for 1x1 maps
            of_mean_B = (mean_BC - norm.running_mean).square().mean(dim=1)
            of_variance_B = (variance_BC - norm.running_var).square().mean(dim=1)
            mismatches.append(of_mean_B + of_variance_B)

        def cut(module: nn.Module, inputs: tuple, output: Tensor) -> Tensor:
            taps.append(output.detach().requires_grad_(True))  # what comes before needs no graph
            return taps[-1].clone()  # a ReLU that writes in place may follow

        handles = [norm.register_forward_pre_hook(measure) for norm in self.norms]
        if self.tap is not None:
            handles.append(self.tap.register_forward_hook(cut))
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()
