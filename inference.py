"""Score a folder of face images: python inference.py -c configs/inference_config.yaml [key=value ...]."""

import logging
import sys
from collections.abc import Sequence

from jobs.image_pass import processes
from jobs.scoring import open_scoring
from model.frozen.describe import Described, named_model
from model.frozen.load import NetworkLoader
from model.published.presets import preset_list
from model.registry import NetworkBuilder
from utils import cli
from utils.config import load_config
from utils.config.inference import InferenceConfig

logger = logging.getLogger("inference")


def main(argv: Sequence[str] | None = None) -> int:
    """Read the configuration, check everything, score, write the results."""
    command = cli.parse_command(__doc__, argv)
    cfg = load_config(InferenceConfig, command.config, command.overrides)
    if cfg.model.preset == "list":
        sys.stdout.write(preset_list())
        return 0
    with processes(cfg.base) as device:
        loader = NetworkLoader(NetworkBuilder(command.allowed), device)
        scorer = loader.load(described(cfg, command.config).scorer())
        if scorer.remark:
            logger.info(scorer.remark)
        with open_scoring(cfg, scorer, command.allowed) as run:
            session = run.images.measure_left(
                lambda crops, rows: scorer.steady_qualities(crops, run.images.loader.batch_size)
            )
            return run.conclude(session)


def described(cfg: InferenceConfig, config: str) -> Described:
    """Gather what the configuration says about the network; `config` is its file, beside which model.config may lie."""
    model = named_model(cfg.model.config, config, cfg.model.weight, cfg.model.preset)
    return Described(cfg.model.weight, cfg.model, model, cfg.base.precision)


if __name__ == "__main__":
    sys.exit(cli.run(main))
