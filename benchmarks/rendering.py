"""Images per second of the renderer on one core.

    python -m benchmarks.rendering [--people 20] [--images 20]

Renders a small population with one process and prints both rates: by the clock, and by the processor time used, which
other programs on the machine disturb less.
"""

import argparse
import tempfile
import time
from pathlib import Path

import cv2

from synthetic.population import Task, render_population
from utils.config.synthetic import PopulationConfig


def main() -> None:
    """Render and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--people", type=int, default=20)
    parser.add_argument("--images", type=int, default=20)
    options = parser.parse_args()
    population = PopulationConfig(identities=options.people, images=options.images)
    with tempfile.TemporaryDirectory() as folder:
        render_population(Task("train", 0, 160, PopulationConfig(identities=1, images=2)), Path(folder) / "warm", 1)
        clock, used = time.perf_counter(), time.process_time()
        report = render_population(Task("test", 1, 160, population), Path(folder) / "test", 1)
        clock, used = time.perf_counter() - clock, time.process_time() - used
    rates = f"{report.images / clock:.0f} images/s by the clock, {report.images / used:.0f} by processor time"
    print(f"{rates} (one process, {report.images} images of 160x160, OpenCV {cv2.__version__})")


if __name__ == "__main__":
    main()
