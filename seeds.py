"""Train a recipe under several seeds; print mean and spread: python seeds.py -c configs/seeds_config.yaml."""

import csv
import sys
from collections.abc import Sequence
from pathlib import Path

from evaluation.report.seed_table import seed_tables
from jobs.experiment.seeds import SeedsConfig, seed_steps
from utils import cli
from utils.config import load_config
from utils.files import atomic_write


def main(argv: Sequence[str] | None = None) -> int:
    """Run the trainings and the evaluation that are not done yet, print the tables."""
    command = cli.parse_command(__doc__, argv)
    cfg = load_config(SeedsConfig, command.config, command.overrides)
    steps = seed_steps(cfg)
    for step in steps:
        step.run(command.allowed.packages, cfg.base.verbose)
    with open(steps[-1].folder / "pauc.csv", encoding="utf-8", newline="") as stream:
        tables = seed_tables(list(csv.DictReader(stream)), cfg.rows, cfg.method)
    text = "\n".join(table.markdown() for table in tables)
    with atomic_write(Path(cfg.base.save_path) / "seeds.md", "w") as stream:
        stream.write(text)
    sys.stdout.write(text)
    return 0


if __name__ == "__main__":
    sys.exit(cli.run(main))
