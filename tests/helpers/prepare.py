"""prepare.py on sections written as YAML, and a folder of photographs for it."""

from pathlib import Path

import cv2
import yaml

import prepare
from tests.helpers.detector import face_image
from utils import cli


def command(tmp_path: Path, *overrides: str, **sections) -> list[str]:
    """Return the arguments of a run whose YAML holds the sections."""
    sections.setdefault("base", {})
    sections["base"] = {"save_path": str(tmp_path / "out"), "verbose": 0, **sections["base"]}
    path = tmp_path / "prepare.yaml"
    path.write_text(yaml.safe_dump(sections))
    return ["-c", str(path), *overrides]


def run(tmp_path: Path, *overrides: str, **sections) -> int:
    """Run prepare.py in this process; return its exit code."""
    arguments = command(tmp_path, *overrides, **sections)
    return cli.run(lambda: prepare.main(arguments))


def write_photographs(root: Path) -> Path:
    """Write five images: two faces, one dark, one broken, one with a face but under a difficult name."""
    cells = {"n1/a.png": (4, 3), "n1/b.jpg": (2, 4), "n2/dark.png": None, 'n2/é, "x"\n.png': (5, 5)}
    for name, cell in cells.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        image = face_image(96, 80, *([cell] if cell else []))
        (root / name).write_bytes(cv2.imencode(Path(name).suffix, image, [cv2.IMWRITE_JPEG_QUALITY, 100])[1].tobytes())
    (root / "n3").mkdir()
    (root / "n3/broken.jpg").write_bytes(b"no image")
    (root / "n3/readme.txt").write_text("x")
    return root
