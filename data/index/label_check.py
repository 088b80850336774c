"""Tell whether some labels mean `no label`: a number like -1 for images without a face presses all others together."""

import numpy as np

from data.index.coverage import LabelScaling

_DISTINCT = 10
"""Labels of fewer values are classes, about which nothing is said."""
_FAR = 0.5
"""An extreme is far where its gap to the next label is above this share of the range of the others."""
_NARROW = 0.01


def odd_labels(labels: np.ndarray, scaling: LabelScaling | None = None) -> list[str]:
    """Return warnings on labels (N,) as the file gives them, NaN left out: marks of failure, and a scaling they ruin.

    A repeated lowest or highest label whose distance to the next is more than half the range of the others is taken
    for such a mark; min-max scaling is remarked on where more than half of the labels come to lie within 1 %.
    """
    found, ordered = [], np.sort(labels[~np.isnan(labels)])
    values, counts = np.unique(ordered, return_counts=True)
    if len(values) <= _DISTINCT:
        return found
    for extreme, rest in ((0, values[1:]), (-1, values[:-1])):
        gap = abs(values[extreme] - rest[extreme])
        if counts[extreme] > 1 and gap > _FAR * np.ptp(rest):
            found.append(
                f"{counts[extreme]:,} labels are {values[extreme]:g}, far from the others ({rest[0]:g} to "
                f"{rest[-1]:g}); if that means `no label`, set missing_value: {values[extreme]:g}"
            )
    half = len(ordered) // 2
    span = (ordered[half:] - ordered[: len(ordered) - half]).min()
    if scaling is not None and scaling.method == "minmax" and span < _NARROW * np.ptp(ordered):
        found.append(
            f"min-max from {ordered[0]:g} to {ordered[-1]:g} leaves most labels within 1 % of each other; set "
            "dataset.label_scaling: rank, or dataset.missing_value to a number that means `no label`"
        )
    return found
