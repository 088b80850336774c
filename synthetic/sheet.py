"""Draw a sheet of rendered people to look at."""

from dataclasses import replace

import cv2
import numpy as np
import torch
from einops import rearrange
from torchvision.utils import make_grid

from synthetic.identity import draw_looks
from synthetic.nuisance import SWEEPS, Nuisance, draw_clean, photograph
from synthetic.render import Person

COLUMNS = (
    "clean",
    "look 2",
    "yaw",
    "pitch",
    "expression",
    "light",
    "blur",
    "lowres",
    "noise",
    "occlusion",
    "darkness",
    "jpeg",
)
CAPTION_PX = 18


def _conditions(kind: str, level: float, rng: np.random.Generator) -> Nuisance:
    """Return clean conditions, or one nuisance at a level that can be seen."""
    base = draw_clean(rng)
    return base if kind in ("clean", "look 2") else SWEEPS[kind](replace(base, yaw=base.yaw / 2), level, rng)


def contact_sheet(seed: int, first_identity: int, people: int, size_px: int = 112) -> np.ndarray:
    """Return a sheet (H, W, 3) uint8 RGB: a row for each person, a column for each kind of condition."""
    cells = []
    for row in range(people):
        looks = draw_looks(seed, first_identity + row)
        usual, other = Person(looks[0]), Person(looks[1])
        for number, kind in enumerate(COLUMNS, 1):
            rng = np.random.default_rng([seed, first_identity + row, number])
            nuisance = _conditions(kind, 0.35 + 0.4 * (row % 3) / 2, rng)
            cells.append(_cell(other if kind == "look 2" else usual, nuisance, size_px, rng))
    cells_NCHW = torch.from_numpy(rearrange(np.stack(cells), "n h w c -> n c h w"))
    grid_CHW = make_grid(cells_NCHW, nrow=len(COLUMNS), padding=0)
    return np.vstack([_captions(size_px), rearrange(grid_CHW.numpy(), "c h w -> h w c")])


def _cell(person: Person, nuisance: Nuisance, size_px: int, rng: np.random.Generator) -> np.ndarray:
    """Return one image as its JPEG file shows it."""
    image, _, nuisance = photograph(person, nuisance, 160, rng)
    _, encoded = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, nuisance.jpeg])
    shown = np.asarray(cv2.imdecode(encoded, cv2.IMREAD_UNCHANGED), np.uint8)
    return cv2.resize(shown, (size_px, size_px), interpolation=cv2.INTER_AREA)


def _captions(size_px: int) -> np.ndarray:
    """Return the head line of the sheet."""
    line = np.full((CAPTION_PX, size_px * len(COLUMNS), 3), 255, np.uint8)
    for column, text in enumerate(COLUMNS):
        cv2.putText(
            line,
            text,
            (column * size_px + 4, CAPTION_PX - 5),
            cv2.FONT_HERSHEY_SIMPLEX,
            0.42,
            (30, 30, 30),
            1,
            cv2.LINE_AA,
        )
    return line
