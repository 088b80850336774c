"""Score a folder of face images: python inference.py -c configs/inference_config.yaml [key=value ...]."""

import logging
import sys
from collections.abc import Sequence

from jobs.image_pass import processes
from jobs.scoring import open_scoring
from model.frozen.load import NetworkLoader, scorer_spec
from model.frozen.onnx_network import is_onnx
from model.registry import NetworkBuilder
from model.sharing.files import recorded_model
from utils import cli
from utils.config import beside, load_config
from utils.config.inference import InferenceConfig
from utils.config.sections import ModelConfig

logger = logging.getLogger("inference")


def main(argv: Sequence[str] | None = None) -> int:
    """Read the configuration, check everything, score, write the results."""
    command = cli.parse_command(__doc__, argv)
    cfg = load_config(InferenceConfig, command.config, command.overrides)
    model_cfg = network_config(cfg, command.config)
    with processes(cfg.base) as device:
        loader = NetworkLoader(NetworkBuilder(command.allowed), device)
        scorer = loader.load(scorer_spec(model_cfg, cfg.model.weight, cfg.base.precision))
        if scorer.remark:
            logger.info(scorer.remark)
        with open_scoring(cfg, model_cfg, scorer, command.allowed) as run:
            session = run.images.measure_left(lambda crops, rows: scorer.qualities(crops))
            return run.conclude(session)


def network_config(cfg: InferenceConfig, config: str) -> ModelConfig | None:
    """Return the network's configuration: as given, or as an exported file records it; an ONNX file needs none."""
    if is_onnx(cfg.model.weight):
        return None
    if cfg.model.config is None:
        return recorded_model(cfg.model.weight)
    return load_config(ModelConfig, beside(cfg.model.config, config))


if __name__ == "__main__":
    sys.exit(cli.run(main))
