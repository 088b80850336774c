"""SER-FIQ: how well stochastic embeddings of one image agree (Terhoerst et al., CVPR 2020)."""

from collections.abc import Callable, Sequence
from typing import Annotated

import numpy as np
import torch
import torch.nn.functional as F
from pydantic import Field, model_validator
from torch import Tensor, nn

from model.frozen.cut import tail
from model.frozen.network import TorchNetwork, before
from model.label_sources.base import LabelSource, named_generator, pieces
from utils.config.loading import StrictModel
from utils.errors import ConfigError

KEY = "source.ser_fiq.dropout"
PASS_BYTES = {"cpu": 32 << 20, "cuda": 1 << 30}  # the dropped-out numbers one pass may hold; on a CPU about its cache


class DropoutConfig(StrictModel):
    """Where SER-FIQ drops activations."""

    rate: Annotated[float, Field(gt=0, lt=1)] | None = None
    """Share of dropped activations; null: the network's own dropout layers, at their own rates."""
    before: str | None = None
    """Module whose input is dropped out, with `rate`; null: the last Linear."""

    @model_validator(mode="after")
    def _complete(self) -> "DropoutConfig":
        if self.before is not None and self.rate is None:
            raise ValueError("before needs rate; give it, e.g. 0.4")
        return self


class SerFiqConfig(StrictModel):
    """SER-FIQ: agreement of stochastic embeddings. Needs dropout."""

    passes: Annotated[int, Field(ge=2)] = 100
    """T, stochastic embeddings per image."""
    dropout: DropoutConfig = DropoutConfig()
    """The dropout that makes them differ."""


class SerFiq(LabelSource):
    """Embed an image T times with dropout; q = 2 / (1 + exp(d)), d the mean distance between two embeddings.

    The batch is repeated T times where the first dropout sits, so that what comes before, the trunk, runs once: as
    part of the network's answer, which other methods may share, or, where the network cannot be cut in two there, in
    a pass of its own. Where a shortcut leads around the dropout the whole network runs T times.
    """

    config = SerFiqConfig
    looks_inside = True
    network: TorchNetwork
    range = "[0.38, 1]"
    draws_on_device = True

    def __init__(self, network: TorchNetwork, cfg: SerFiqConfig, seed: int = 0, rows: int = 32):
        super().__init__(network, cfg, seed, rows)
        self.passes = cfg.passes
        self.rates = _dropout_sites(network, cfg.dropout)
        if cfg.dropout.rate is not None:
            self.remark = (
                f"SER-FIQ: dropout {cfg.dropout.rate} is imposed before {', '.join(self.rates)} of {network.name}; "
                "labels are meaningful only as far as the network was trained with such dropout"
            )
        self.first = _execution_order(network, list(self.rates))[0]
        self.behind = tail(network.backbone, self.first)
        if self.behind is not None:
            network.tap(self.first)
        self.runs_trunk_once = self.behind is not None or self._can_repeat_at_first()
        self.images_per_pass = self._images_per_pass()

    @torch.no_grad()
    def scores(self, images_BHW3: Tensor, names: Sequence[str]) -> np.ndarray:
        """Return 2 / (1 + exp(d)) for each image (B,)."""
        inputs = images_BHW3 if self.behind is None else self.network(images_BHW3).taps[self.first]
        parts = [self._score(inputs[part], names[part]) for part in pieces(len(names), self.images_per_pass)]
        return torch.cat(parts).cpu().numpy()

    def _score(self, inputs: Tensor, names: Sequence[str]) -> Tensor:
        """Score images given as crops, or as what the first dropout is given."""
        x = self.network.prepare(inputs) if self.behind is None else inputs
        embedding_BTD = self._embed_dropped(x, names, self.runs_trunk_once)
        unit_BTD = F.normalize(embedding_BTD.double(), dim=2)
        # |a - b|^2 = 2 - 2 cos for unit vectors; float64 keeps eight digits of the distance of near twins
        squared_BTT = 2 - 2 * unit_BTD @ unit_BTD.transpose(1, 2)
        distance_BTT = squared_BTT.clamp_min(0).sqrt()
        pairs = self.passes * (self.passes - 1) / 2
        mean_B = distance_BTT.triu(diagonal=1).sum(dim=(1, 2)) / pairs
        return 2 / (1 + mean_B.exp())

    def _embed_dropped(self, x: Tensor, names: Sequence[str], share_trunk: bool) -> Tensor:
        """Return T embeddings of each image (B, T, D), with the masks of its own generator."""
        generators = [named_generator(self.seed, name, x.device) for name in names]
        with before(self.network.backbone, {name: self._drop(name, generators) for name in self.rates}):
            x = x if share_trunk else x.repeat_interleave(self.passes, dim=0)
            return self.network.embed(x, self.behind).unflatten(0, (len(names), self.passes))

    def _drop(self, name: str, generators: list[torch.Generator]) -> Callable:
        """Return the hook that drops out the input of module `name`, for each image with its own generator."""
        rate = self.rates[name]

        def hook(module: nn.Module, inputs: tuple) -> tuple:
            x = inputs[0].unflatten(0, (len(generators), -1))  # (B, 1, ...) where the batch grows, then (B, T, ...)
            out = x.new_empty(len(generators), self.passes, *x.shape[2:])
            kept = torch.empty_like(out[0])
            for i, generator in enumerate(generators):
                kept.uniform_(generator=generator).ge_(rate)
                torch.mul(kept, x[i] / (1 - rate), out=out[i])
            return (out.flatten(0, 1), *inputs[1:])

        return hook

    @torch.no_grad()
    def _can_repeat_at_first(self) -> bool:
        """Try on two blank images whether the batch may grow at the first dropout."""
        try:
            self._embed_dropped(self.network.blank(2), ["", ""], share_trunk=True)
        except torch.OutOfMemoryError:
            raise
        except RuntimeError:  # shapes disagree: something leads around the dropout
            return False
        return True

    @torch.no_grad()
    def _images_per_pass(self) -> int:
        if not self.runs_trunk_once:
            return self.rows // self.passes
        numbers: list[int] = []
        with before(self.network.backbone, {self.first: lambda _, inputs: numbers.append(inputs[0].numel())}):
            self.network.embed(self.network.blank(1))
        return PASS_BYTES.get(self.network.device.type, 1 << 30) // (4 * self.passes * numbers[0])


def _dropout_sites(network: TorchNetwork, cfg: DropoutConfig) -> dict[str, float]:
    """Name the modules whose inputs are dropped out, with their rates."""
    modules = dict(network.backbone.named_modules())
    if cfg.rate is None:
        own = {name: m.p for name, m in modules.items() if isinstance(m, nn.Dropout) and m.p > 0}
        if not own:
            raise ConfigError(
                f"{KEY}: {network.name} has no active dropout layer; name the rate it was trained with in "
                f"model.features.params, or impose one with {KEY}.rate=0.4"
            )
        return own
    if cfg.before is None:
        linear = [name for name, m in modules.items() if isinstance(m, nn.Linear)]
        if not linear:
            raise ConfigError(f"{KEY}.before: {network.name} has no Linear layer; name the module to drop out before")
        return {_execution_order(network, linear)[-1]: cfg.rate}
    if cfg.before not in modules or not cfg.before:
        raise ConfigError(f"{KEY}.before: {network.name} has no module {cfg.before!r}; known are {_examples(modules)}")
    return {cfg.before: cfg.rate}


@torch.no_grad()
def _execution_order(network: TorchNetwork, names: list[str]) -> list[str]:
    """Return those of the named modules that one pass runs, in the order it runs them."""
    order: list[str] = []
    with before(network.backbone, {name: lambda *_, name=name: order.append(name) for name in names}):
        network.embed(network.blank(1))
    if not order:
        raise ConfigError(f"{KEY}: {network.name} never runs {', '.join(names[:3])}; name another module in before")
    return order


def _examples(modules: dict[str, nn.Module]) -> str:
    names = [name for name in modules if name]
    return f"{', '.join(names[-6:])} and {max(0, len(names) - 6)} more"
