"""Quality methods that run here: trained quality models and label sources, as scorers of crops."""

import posixpath
from collections.abc import Sequence
from typing import Any

import numpy as np
from torch import Tensor

from model.frozen.load import NetworkLoader, scorer_spec
from model.label_sources import PopulationSource, build_source, label_schema
from utils.config import beside, load_config
from utils.config.evaluate import ScoresConfig
from utils.config.sections import ModelConfig
from utils.files import sha256_file


class QualityModel:
    """Score crops with a trained quality model (`weights` and `config`)."""

    reason = None

    def __init__(self, cfg: ScoresConfig, place: str, loader: NetworkLoader):
        """`place`: the configuration file, beside which `cfg.config` is looked for too."""
        model = load_config(ModelConfig, beside(cfg.config, place))
        self.scorer = loader.load(scorer_spec(model, cfg.weights))
        self.remark = self.scorer.remark or None
        network = model.model_dump(mode="json", include={"features", "head", "transform"})
        network["features"].pop("weights")
        self.fingerprint: dict[str, Any] = {"network": network, "weights": sha256_file(cfg.weights)}

    def __call__(self, images_BHW3: Tensor, names: Sequence[str]) -> np.ndarray:
        """Return the qualities (B,)."""
        return self.scorer.qualities(images_BHW3)

    def finish(self, values: np.ndarray, names: Sequence[str]) -> np.ndarray:
        """Return the values: a quality depends on no other image."""
        return values


class SourceModel:
    """Score crops with a label source (`source`: its label_config.yaml; dataset and output keys have no effect)."""

    def __init__(self, cfg: ScoresConfig, place: str, loader: NetworkLoader):
        label = load_config(label_schema(), beside(cfg.source, place))
        model = load_config(ModelConfig, beside(label.model.config, cfg.source))
        self.source = build_source(label, model, loader)
        self.remark = self.source.remark or None
        self.reason = getattr(self.source, "reason", None)
        weights = label.model.weight or model.features.weights
        settings = label.source.settings
        self.fingerprint: dict[str, Any] = {
            "source": label.source.name,
            "params": settings.model_dump(mode="json") if settings is not None else None,
            "seed": label.base.seed,
            "network": model.model_dump(mode="json", exclude={"teacher"}),
            "weights": sha256_file(weights) if weights else None,
        }

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


def build_method(cfg: ScoresConfig, place: str, loader: NetworkLoader) -> QualityModel | SourceModel:
    """Build a method that runs here."""
    kind = QualityModel if cfg.weights is not None else SourceModel
    return kind(cfg, place, loader)
