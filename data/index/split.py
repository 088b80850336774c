"""Which images are held out for validation."""

from typing import NamedTuple

import numpy as np


class Split(NamedTuple):
    """Rows for training and for validation, each ascending."""

    train: np.ndarray
    val: np.ndarray


def split(labels: np.ndarray, val_percent: float) -> Split:
    """Hold out every round(1 / val_percent)-th row of the order (label, row), from the first on.

    With two rows or more, a positive share holds out at least one and leaves at least one.
    """
    count = len(labels)
    if val_percent <= 0 or count < 2:
        return Split(np.arange(count), np.arange(0))
    step = max(2, round(min(count, 1 / val_percent)))
    held_out = np.zeros(count, bool)
    held_out[np.argsort(labels, kind="stable")[::step]] = True
    return Split(np.flatnonzero(~held_out), np.flatnonzero(held_out))
