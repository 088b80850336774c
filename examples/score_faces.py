"""Score aligned face crops from Python: python examples/score_faces.py WEIGHTS MODEL_CONFIG IMAGE [IMAGE ...]."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # the repository is no package to install

from jobs.scorer import load_scorer
from utils.errors import UserError


def main(weight: str, config: str, *images: str) -> None:
    """Write quality and path of each image, the best first; say on standard error which have none."""
    scorer = load_scorer(weight, config)
    quality, failures = scorer.score(images)
    for place in sorted(range(len(images)), key=lambda place: -quality[place]):
        if place not in failures:
            sys.stdout.write(f"{quality[place]:.4f} {images[place]}\n")
    for place, reason in failures.items():
        sys.stderr.write(f"{images[place]}: {reason}\n")


if __name__ == "__main__":
    if len(sys.argv) < 4:
        sys.exit(__doc__)
    try:
        main(*sys.argv[1:])
    except UserError as error:
        sys.exit(f"error: {error}")
