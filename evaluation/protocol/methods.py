"""Quality methods that run here: trained quality models and label sources, as scorers of crops."""

import posixpath
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from evaluation.protocol.embeddings import fingerprint
from evaluation.protocol.views import Averaging
from model.frozen.describe import Described, named_model
from model.frozen.load import NetworkLoader
from model.label_sources import PopulationSource, build_source, label_schema, source_class, source_spec
from utils.config import beside, load_config
from utils.config.evaluate import ScoresConfig
from utils.config.sections import ViewsConfig


class QualityModel:
    """Score crops with a quality model (`weights`)."""

    reason: str | None = None

    def __init__(self, cfg: ScoresConfig, place: str | Path, precision: str = "fp32"):
        """Describe the model; `place` is the configuration file, beside which `cfg.config` may lie."""
        weights = cfg.weights or ""
        model = named_model(cfg.config, place, weights, cfg.preset)
        self.spec = Described(weights, cfg, model, cfg.precision or precision).scorer()
        self.averaging: Averaging | None = None

    def load(self, loader: NetworkLoader) -> None:
        """Load the network."""
        self.scorer = loader.load(self.spec)
        self.fingerprint: dict[str, Any] = fingerprint(self.spec, self.scorer)
        self.remarks = [self.scorer.remark]

    def __call__(self, images_BHW3: Tensor, names: Sequence[str]) -> np.ndarray:
        """Return the qualities (B,)."""
        return self.scorer.qualities(images_BHW3)

    def finish(self, values: np.ndarray, names: Sequence[str]) -> np.ndarray:
        """Return the values: a quality depends on no other image."""
        return values


class SourceModel:
    """Score crops with a label source (`source`: its label_config.yaml; dataset and output keys have no effect)."""

    def __init__(self, config: Path):
        """Describe the source; `config` is its label_config.yaml."""
        self.label = load_config(label_schema(), config)
        keys = self.label.model
        self.model = named_model(keys.config, config, keys.weight, keys.preset)
        self.spec = source_spec(self.label, self.model)
        self.reason: str | None = getattr(source_class(self.label.source.name), "reason", None)
        source = self.label.source
        self.averaging: Averaging | None = Averaging(source.views, source.perturbation, self.label.base.seed)

    def load(self, loader: NetworkLoader) -> None:
        """Load the network and build the source over it."""
        self.source = build_source(self.label, self.model, loader)
        settings = self.label.source.settings
        self.fingerprint: dict[str, Any] = {
            "source": self.label.source.name,
            "params": settings.model_dump(mode="json") if settings is not None else None,
            "seed": self.label.base.seed,
            **fingerprint(self.spec, self.source.network),
        }
        self.remarks = [self.source.network.remark, self.source.remark]

    def __call__(self, images_BHW3: Tensor, names: Sequence[str]) -> np.ndarray:
        """Return labels (B,), or embeddings (B, D) where labels need the whole population."""
        if isinstance(self.source, PopulationSource):
            return self.source.embed(images_BHW3)
        return self.source.scores(images_BHW3, names)

    def finish(self, values: np.ndarray, names: Sequence[str]) -> np.ndarray:
        """Return the labels (N,); an identity is the folder an image lies in."""
        if not isinstance(self.source, PopulationSource):
            return values
        folders = np.array([posixpath.dirname(name) for name in names])
        return self.source.finish(values, np.unique(folders, return_inverse=True)[1], names)


def describe_method(cfg: ScoresConfig, place: str, precision: str) -> QualityModel | SourceModel:
    """Describe a method that runs here, to be loaded later; its files may lie beside the configuration `place`."""
    if cfg.weights is not None:
        model = QualityModel(cfg, place, precision)
    else:
        model = SourceModel(beside(cfg.source or "", place))
    model.averaging = _averaging(cfg, model.averaging or Averaging(1, ViewsConfig(), 0))
    return model


def _averaging(cfg: ScoresConfig, own: Averaging) -> Averaging | None:
    """Return over which looks at a face the method averages: as the evaluation asks, else as the method says."""
    asked = Averaging(cfg.views or own.count, cfg.perturbation or own.perturbation, own.seed)
    return asked if asked.count > 1 else None
