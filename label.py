"""Label a folder for training by a label source: python label.py -c configs/label_config.yaml [key=value ...]."""

import logging
import sys
from collections.abc import Sequence

from jobs.image_pass import processes
from jobs.labelling import open_labelling
from model.frozen.describe import named_model
from model.frozen.load import NetworkLoader
from model.label_sources import build_source, label_schema
from model.published.presets import preset_list
from model.registry import NetworkBuilder
from utils import cli
from utils.config import load_config

logger = logging.getLogger("label")


def main(argv: Sequence[str] | None = None) -> int:
    """Read the configuration, check everything, label, write the results."""
    command = cli.parse_command(__doc__, argv)
    cfg = load_config(label_schema(), command.config, command.overrides)
    if cfg.model.preset == "list":
        sys.stdout.write(preset_list())
        return 0
    model_cfg = named_model(cfg.model.config, command.config, cfg.model.weight, cfg.model.preset)
    with processes(cfg.base) as device:
        source = build_source(cfg, model_cfg, NetworkLoader(NetworkBuilder(command.allowed), device))
        for line in filter(None, (source.network.remark, source.remark)):
            logger.info(line)
        with open_labelling(cfg, source, command.allowed) as run:
            session = run.images.measure_left(run.measure)
            return run.conclude(session)


if __name__ == "__main__":
    sys.exit(cli.run(main))
