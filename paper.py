"""Run what the data at hand allows of the paper: python paper.py -c configs/paper/paper.yaml base.data=FOLDER.

make paper DATA=FOLDER is the same; docs/paper.md says what belongs in the folder.
"""

import csv
import sys
from collections.abc import Sequence
from pathlib import Path

from evaluation.report.paper_tables import paper_tables
from jobs.experiment.config import PaperConfig
from jobs.experiment.paper import Paper
from utils import cli
from utils.config import load_config
from utils.errors import DataError
from utils.files import atomic_write


def main(argv: Sequence[str] | None = None) -> int:
    """Say what is missing, run the rest, print the tables."""
    command = cli.parse_command(__doc__, argv)
    cfg = load_config(PaperConfig, command.config, command.overrides)
    if not Path(cfg.base.data).is_dir():
        raise DataError(f"{cfg.base.data}: no such folder; name the folder of the data in base.data")
    paper = Paper(cfg)
    steps = paper.steps()
    if not steps:
        raise DataError(
            f"{cfg.base.data} holds nothing that can be run: it takes training images, landmarks, labels and the "
            "backbone, or a test set with the backbone; docs/paper.md says what belongs where"
        )
    missing = [f"missing: {line}\n" for line in dict.fromkeys(paper.missing)]
    if cfg.base.verbose:
        sys.stderr.write("".join([*missing, f"{len(steps)} commands; those that are done are skipped\n"]))
    for step in steps:
        step.run(command.allowed.packages, cfg.base.verbose)
    text = "".join(missing)
    if steps[-1].script == "evaluate.py":
        with open(steps[-1].folder / "pauc.csv", encoding="utf-8", newline="") as stream:
            rows = list(csv.DictReader(stream))
        limit = max(float(row["discard_limit"]) for row in rows)
        text = "\n".join([*(table.markdown() for table in paper_tables(rows, limit)), text])
    with atomic_write(paper.out / "tables.md", "w") as stream:
        stream.write(text)
    sys.stdout.write(text)
    return 0


if __name__ == "__main__":
    sys.exit(cli.run(main))
