"""Score aligned face crops with an exported student: python examples/score_onnx.py student.onnx FOLDER > scores.csv.

Needs numpy, Pillow and onnxruntime; neither torch nor this repository. Higher = better.
"""

import csv
import json
import sys
from pathlib import Path

import numpy as np
import onnxruntime
from PIL import Image

SUFFIXES = {".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff"}


def main(model: str, folder: str) -> None:
    """Write path,quality of every image below `folder` to standard output."""
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    size = json.loads(session.get_modelmeta().custom_metadata_map["ai_kd"])["contract"]["size_px"]
    paths = sorted(path for path in Path(folder).rglob("*") if path.suffix.lower() in SUFFIXES)
    table = csv.writer(sys.stdout, lineterminator="\n")
    table.writerow(["path", "quality"])
    for start in range(0, len(paths), 32):
        batch = paths[start : start + 32]
        images = [Image.open(path).convert("RGB").resize((size, size), Image.Resampling.BILINEAR) for path in batch]
        quality, _ = session.run(["quality", "embedding"], {"crops": np.stack(images)})
        table.writerows((path.relative_to(folder).as_posix(), score) for path, score in zip(batch, quality))


if __name__ == "__main__":
    main(*sys.argv[1:])
