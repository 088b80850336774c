"""Score aligned face crops with an exported student: python examples/score_onnx.py student.onnx FOLDER > scores.csv.

Needs numpy, Pillow and onnxruntime; neither torch nor this repository. Higher = better. Decodes as inference.py does
(of 16-bit colours the high byte counts); a file that cannot be read is named on standard error.
"""

import csv
import json
import sys
from pathlib import Path

import numpy as np
import onnxruntime
from PIL import Image, ImageOps

SUFFIXES = {".jpg", ".jpeg", ".jpe", ".png", ".webp", ".bmp", ".tif", ".tiff"}
Image.MAX_IMAGE_PIXELS = 50_000_000  # Pillow refuses more than twice as many


def main(model: str, folder: str) -> None:
    """Write path,quality of every image below `folder` to standard output."""
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    size = json.loads(session.get_modelmeta().custom_metadata_map["ai_kd"])["contract"]["size_px"]
    found = (path for path in Path(folder).rglob("*") if path.suffix.lower() in SUFFIXES and not path.is_dir())
    names = sorted(path.relative_to(folder).as_posix() for path in found)
    if not names:
        sys.exit(f"{folder}: no image below this folder; they end in {', '.join(sorted(SUFFIXES))}")
    resized = 0
    table = csv.writer(sys.stdout, lineterminator="\n")
    table.writerow(["path", "quality"])
    for start in range(0, len(names), 32):
        crops = {}
        for name in names[start : start + 32]:
            try:
                crops[name], is_crop = read_crop(Path(folder, name), size)
                resized += not is_crop
            except Exception as error:  # Pillow raises a dozen types on damaged files
                sys.stderr.write(f"{name}: {error}\n")
        if crops:
            quality, _ = session.run(["quality", "embedding"], {"crops": np.stack(list(crops.values()))})
            table.writerows(zip(crops, quality))
    if resized:
        sys.stderr.write(f"warning: {resized} of {len(names)} images are no {size}x{size} crops and were resized; ")
        sys.stderr.write("the score of a photograph that is not aligned means nothing\n")


def read_crop(path: Path, size: int) -> tuple[np.ndarray, bool]:
    """Return (size, size, 3) uint8 RGB, upright by EXIF, 16-bit grey divided by 257, and whether it had that size."""
    with Image.open(path) as image:
        kind = image.format
        image.load()
        image = ImageOps.exif_transpose(image)
    if image.mode.startswith("I;16") or (image.mode == "I" and kind == "PNG"):
        image = Image.fromarray(((np.asarray(image).astype(np.uint32) + 128) // 257).astype(np.uint8))
    if image.mode in ("I", "F"):
        raise ValueError("32-bit pixels have no known range")
    crop = image.convert("RGB").resize((size, size), Image.Resampling.BILINEAR)
    return np.asarray(crop), image.size == (size, size)


if __name__ == "__main__":
    sys.stdout.reconfigure(errors="surrogateescape")
    main(*sys.argv[1:]) if len(sys.argv) == 3 else sys.exit(__doc__.splitlines()[0])
