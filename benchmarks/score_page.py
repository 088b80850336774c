"""Time scores.html on 1,000,000 scored images: python -m benchmarks.score_page [--images N].

The folder holds 500 crops of 112x112, each under many names; the page decodes those it shows.
"""

import argparse
import tempfile
import time
from pathlib import Path

import numpy as np

from benchmarks.pictures import write_picture
from data.samples.crops import FaceCrops
from data.sources.memory import MemorySource
from data.tables.names import Names
from evaluation.report.score_page import ScorePage
from jobs.score_page import jpegs, pictures
from utils.config.sections import CropInputConfig


def main() -> None:
    """Write the page and print time and size."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=1_000_000)
    count = parser.parse_args().images
    rng = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        for number in range(500):
            write_picture(place / f"{number}.jpg", (112, 112), rng)
        files = [(place / f"{number}.jpg").read_bytes() for number in range(500)]
        names = Names.from_strings([f"n{row // 300:06d}/{row % 300:04d}_01.jpg" for row in range(count)])
        source = MemorySource(folder, names, [files[row % 500] for row in range(count)])
        crops, values = FaceCrops(source, CropInputConfig(loc=folder)), rng.normal(size=count).astype(np.float32)
        started = time.perf_counter()
        page = ScorePage("benchmark", names, np.arange(count), values, {}, {})
        page.write(place / "scores.html", pictures(page, lambda rows: jpegs(crops.take(rows))))
        seconds = time.perf_counter() - started
        size = (place / "scores.html").stat().st_size / 1e6
        print(f"{count:,} images: {seconds:.2f} s, {size:.2f} MB")


if __name__ == "__main__":
    main()
